"""Common functions of the commands: the pairs of a config, the loader, a sample."""

import io
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.data.images.types import as_image
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import loader_options
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.sources.assemble import open_parts
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.sources.options import FileOptions, parse
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.terminal.redact import redacted

MakeTokenizer = Callable[[ConfigDict, RecordSource], Tokenizer]  # the tokenizer of a new run
SAMPLE_SEED = 0


class Section(NamedTuple):
    """All pairs of one location in the config, also quarantined and held-out pairs."""

    name: str  # "train", "val" or "test"; if it has several locations, followed by the location
    pairs: PairSource
    prefix: str = ""  # of all keys, if there are several locations


class EncodedRecords(PairSource):
    """Records in memory as a `PairSource`; images are encoded as PNG."""

    def __init__(self, records: RecordSource):
        self._records, self.has_second_captions = records, records.has_second_captions

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        return self._records.key(index)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._records.captions(index)

    def second_captions(self, index: int) -> tuple[str, ...]:
        return self._records.second_captions(index)

    def image_bytes(self, index: int) -> bytes:
        buffer = io.BytesIO()
        as_image(self._records[index].image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def sections_of(config: ConfigDict) -> list[Section]:
    """The pairs of every location in ``config.data``; for an embedded data set, its training records."""
    lookup(SOURCES, config.data.name, "data source")
    if config.data.name not in FORMATS:
        return [Section("train", EncodedRecords(SOURCES[config.data.name](config.data).train))]
    found = []
    for split, parts in open_parts(parse(FileOptions, config.data)).items():
        names = [split if len(parts) == 1 else f"{split} {redacted(part.location.path)}" for part in parts]
        found += [Section(name, part.pairs, part.prefix) for name, part in zip(names, parts, strict=True)]
    return found


def training_set(config: ConfigDict) -> Dataset:
    """The data set of `config`; `UserError` if it has no training data."""
    dataset = lookup(SOURCES, config.data.name, "data source")(config.data)
    if not len(dataset.train):
        raise UserError("config.data.train is empty: name the training data, which this command reads.")
    return dataset


def make_loader(config: ConfigDict, train: RecordSource, tokenizer: Tokenizer, **changes: Any) -> Loader:
    """The loader of a run, without a limit of bad records; `changes` as in `loader_options`."""
    options = loader_options(config, ("images", "tokens", "index"), max_bad_fraction=1.0, **changes)
    return Loader(train, tokenizer, options)


def sample(count: int, size: int) -> Sequence[int]:
    """`size` indices below `count`, ascending, drawn with a fixed seed; all of them if `size` is 0."""
    if not size or size >= count:
        return range(count)
    return sorted(random.Random(SAMPLE_SEED).sample(range(count), size))
