"""The embedded emoji, decoded once a process: more than 100 tests build a run on them, at a second each."""

import functools

from rankclip_jax.data.sources import emoji

_read_sheet = emoji.read_sheet


@functools.cache
def _embedded(style, num_cells):
    sheet = _read_sheet(emoji.FOLDER, style, num_cells)
    sheet.setflags(write=False)
    return sheet


def _cached(folder, style, num_cells):
    return _embedded(style, num_cells) if folder == emoji.FOLDER else _read_sheet(folder, style, num_cells)


def keep_decoded() -> None:
    """Let this process, and the processes forked from it, decode each embedded sheet once."""
    emoji.read_sheet = _cached
