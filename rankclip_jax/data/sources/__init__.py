"""Data sources by name: each builder takes the `data` part of a config and gives a `Dataset`.

A new format is one file here with ``load(config) -> Dataset`` and one line in `SOURCES`.
"""

from collections.abc import Callable
from typing import Any

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import emoji

SOURCES: dict[str, Callable[[Any], Dataset]] = {"emoji": emoji.load}
