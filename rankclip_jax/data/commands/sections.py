"""What the commands walk over: the pairs of every place that a config names, before anything is left out."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.sources.assemble import open_parts
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.sources.options import FileOptions, parse
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError, lookup

T = TypeVar("T")
CHUNK = 64  # pairs that a thread takes at a time
PERMUTATION_SEED = 0  # of samples


class Section(NamedTuple):
    """The pairs of one place.

    Attributes:
      name: "train", "val" or "test", with the place where there are several.
      pairs: all of them, quarantined or held out ones too.
    """

    name: str
    pairs: PairSource


class EncodedRecords(PairSource):
    """Records in memory as a `PairSource`: images as PNG files."""

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
        Image.fromarray(np.asarray(self._records[index].image)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def sections_of(config: ConfigDict) -> list[Section]:
    """Every place of ``config.data``; of an embedded set its training records."""
    lookup(SOURCES, config.data.name, "data source")
    if config.data.name not in FORMATS:
        return [Section("train", EncodedRecords(SOURCES[config.data.name](config.data).train))]
    found = []
    for split, parts in open_parts(parse(FileOptions, config.data)).items():
        found += [Section(split if len(parts) == 1 else f"{split} {p.location.path}", p.pairs) for p in parts]
    return found


def training_set(config: ConfigDict) -> Dataset:
    """What `config` trains on; `UserError` where it only evaluates."""
    dataset = lookup(SOURCES, config.data.name, "data source")(config.data)
    if not len(dataset.train):
        raise UserError("config.data.train is empty, and this command is about what is trained on: name it.")
    return dataset


def tokenizer_of(config: ConfigDict, train: RecordSource) -> Tokenizer:
    """The tokenizer that a new run of `config` would have."""
    from rankclip_jax.training.init_from import read_initial
    from rankclip_jax.training.setup import build_tokenizer

    return build_tokenizer(config, train, None, initial=read_initial(config, None))


def sample(count: int, wanted: int) -> np.ndarray:
    """int, so many of `count` numbers by a fixed permutation, in ascending order; 0 wants all."""
    if not wanted or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(PERMUTATION_SEED).choice(count, wanted, replace=False))


def in_parallel(
    work: Callable[[np.ndarray], T], numbers: np.ndarray, threads: int, title: str, unit: str = "pair"
) -> Iterator[T]:
    """`work` of consecutive chunks of `numbers`, in their order, with a progress bar; few chunks are in memory."""
    chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    bar = tqdm(total=len(numbers), desc=title, unit=unit, leave=False, delay=1)
    with ThreadPoolExecutor(threads) as pool, bar:
        waiting: list[Any] = []
        for chunk in chunks:
            waiting.append((len(chunk), pool.submit(work, chunk)))
            if len(waiting) > 4 * threads:
                yield _finished(waiting.pop(0), bar)
        for job in waiting:
            yield _finished(job, bar)


def _finished(job: tuple[int, Any], bar: tqdm) -> Any:
    size, future = job
    result = future.result()
    bar.update(size)
    return result
