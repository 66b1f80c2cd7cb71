"""Data sources by name: each builder takes the `data` part of a config and gives a `Dataset`.

A new format of pairs is one file here and one line in `formats.FORMATS`; what has splits of its own, as the embedded
set, is one file with ``load(config) -> Dataset`` and one line in `SOURCES`.
"""

from collections.abc import Callable
from typing import Any

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import assemble, emoji
from rankclip_jax.data.sources.formats import FORMATS

SOURCES: dict[str, Callable[[Any], Dataset]] = {"emoji": emoji.load, **dict.fromkeys(FORMATS, assemble.load)}
