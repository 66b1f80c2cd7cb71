"""Data sources by name: each builder takes the `data` part of a config and gives a `Dataset`.

A new format of pairs is one file here and one line in `formats.FORMATS`; what has splits of its own, as the embedded
set, is one file with ``load(config) -> Dataset`` and one line in `SOURCES`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import assemble, emoji
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.errors import UserError

Load = Callable[[Any], Dataset]


def _strict(load: Load, own: Mapping[str, Any], others: Mapping[str, Any], advice: str) -> Load:
    """`load`, where options that only other sources read must be at their defaults: nothing is ignored in silence."""

    def checked(config: Any) -> Dataset:
        for name in (name for name in others if name not in own):
            value = getattr(config, name, others[name])
            value = tuple(value) if isinstance(value, list) else value  # as JSON has tuples
            if value != others[name]:
                raise UserError(
                    f"config.data.{name} is {value!r}, which config.data.name={config.name!r} does not read: {advice}."
                )
        return load(config)

    return checked


_of_emoji = _strict(
    emoji.load, emoji.OPTIONS, assemble.OPTIONS, "name the format of your files there, such as csv or webdataset"
)
_of_files = _strict(assemble.load, assemble.OPTIONS, emoji.OPTIONS, "leave it out")
SOURCES: dict[str, Load] = {"emoji": _of_emoji, **dict.fromkeys(FORMATS, _of_files)}
