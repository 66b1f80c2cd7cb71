"""Finds the columns of images, captions and labels in a table."""

import itertools
import logging
from collections.abc import Collection

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.errors import UserError, did_you_mean
from rankclip_jax.terminal.redact import redacted

# Usual column names, the most specific first, in any letter case. "filepath" and "title" are open_clip's.
IMAGES = (
    "filepath", "image_path", "img_path", "file_path", "image", "img", "picture", "photo", "images", "jpg", "png",
    "webp", "jpeg", "image_file", "file_name", "filename", "image_name", "image_bytes", "bytes", "path", "file",
)  # fmt: skip
CAPTIONS = (
    "title", "caption", "captions", "text", "texts", "txt", "sentence", "sentences", "description", "alt_text",
    "alt", "raw_caption", "comment", "prompt",
)  # fmt: skip
LOG = logging.getLogger(__name__)
LISTED, LONGEST = 30, 40  # columns in a message, and characters of each
LABELS = ("label", "labels", "class", "fine_label", "category")


def find_column(names: Collection[str], wanted: str, usual: Collection[str], key: str, where: str) -> str:
    """Find a column among `names`: the column `wanted`, or the first one in `usual` if `wanted` is "".

    Raises:
      UserError: there is no such column. The message has the config key `key`, the file `where` and its columns.
    """
    found = find_usual(names, (wanted,) if wanted else usual)
    if found is not None and list(names).count(found) > 1:
        raise UserError(f"{where} has several columns {found!r}: rename all but one.")
    if found is not None:
        return found
    listed = ", ".join(repr(name[:LONGEST]) for name in itertools.islice(names, LISTED)) or "none"
    listed += f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    if wanted:
        raise UserError(f"{where} has no column {wanted!r}.{did_you_mean(wanted, names)} Columns found: {listed}.")
    raise UserError(
        f"{where}: no column has a usual name for {'images' if key == 'image_key' else 'captions'}, such as "
        f"{', '.join(list(usual)[:3])}; name it in config.data.{key}. Columns found: {listed}."
    )


def find_usual(names: Collection[str], usual: Collection[str]) -> str | None:
    """The first name of `usual` that is in `names`, exactly or in another letter case; None if no name is."""
    folded = {name.strip().casefold(): name for name in reversed(list(names))}
    for name in usual:
        if name in names:
            return name
        if name.casefold() in folded:
            return folded[name.casefold()]
    return None


def text_columns(names: Collection[str], options: PairOptions, where: str) -> list[str]:
    """The column of captions, and the column of second captions if the options name it."""
    caption = find_column(names, options.caption_key, CAPTIONS, "caption_key", where)
    found = [name for name in names if find_usual([name], CAPTIONS)]
    if not options.caption_key and len(found) > 1:
        text = "%s: %r is used as the column of captions, not %s: if this is wrong, set config.data.caption_key"
        LOG.warning(text, redacted(where), caption, ", ".join(repr(name) for name in found if name != caption))
    if not options.second_caption_key:
        return [caption]
    return [caption, find_column(names, options.second_caption_key, (), "second_caption_key", where)]
