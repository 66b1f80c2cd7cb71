"""Data sources by name. Each takes `config.data` and gives a `Dataset`.

To add a format of pairs, add one file here and one line in `formats.FORMATS`. To add a source with splits of its own,
such as the embedded emoji, add one file and one line in `SOURCES`.
"""

from collections.abc import Callable
from typing import Any

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import assemble, emoji
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.sources.options import EmojiOptions, FileOptions, parse


def _load_emoji(data: Any) -> Dataset:
    return emoji.load(parse(EmojiOptions, data))


def _load_files(data: Any) -> Dataset:
    return assemble.load(parse(FileOptions, data))


SOURCES: dict[str, Callable[[Any], Dataset]] = {"emoji": _load_emoji, **dict.fromkeys(FORMATS, _load_files)}
