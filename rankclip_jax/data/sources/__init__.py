"""Data sources by name. Each takes `config.data` and returns a `Dataset`.

To add a file format, add one file here and one line in `formats.FORMATS`. To add a data set with its own splits, such
as the embedded emoji, add one file here and one line in `SOURCES`.
"""

from collections.abc import Callable
from typing import Any

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import assemble, emoji
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.sources.options import EmojiOptions, FileOptions, parse

SOURCES: dict[str, Callable[[Any], Dataset]] = {
    "emoji": lambda data: emoji.load(parse(EmojiOptions, data)),
    **dict.fromkeys(FORMATS, lambda data: assemble.load(parse(FileOptions, data))),
}
