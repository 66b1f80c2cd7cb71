"""Batches as a pure function of (seed, step), the same for any number of processes.

Letters: B rows of the global batch, b = B / process_count local rows, S image side, L tokens.

The record in row r of step t and its random numbers depend on (seed, t, r) only. Each process makes its own
contiguous rows of every global batch. Concatenated, the rows of all processes equal the batch of a single process, bit
for bit. The only state of the stream is the index of the next step.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np

from rankclip_jax.data.bad_records import BadRecord, BadRecords
from rankclip_jax.data.caption_check import SAMPLE, warnings_of
from rankclip_jax.data.images.types import WHITE, check_image
from rankclip_jax.data.loader_options import LoaderOptions, example_arrays
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.augment import TextAugment
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes

LOG = logging.getLogger(__name__)
STRIDE = 7919  # a prime: the replacements of neighbouring bad records are far apart
MAX_SUBSTITUTES = 16
# Up to this number of records the permutation is stored. Grain's index_shuffle stores nothing, but is slow for less
# than 65,536 records: 24 us per draw for 1,000 records.
MAX_STORED_ORDER = 1 << 20
# Grain's own default of 4 rounds does not mix: positions next to each other have a correlation of 0.1 to 0.8.
ROUNDS = 8
CACHED_CAPTIONS = 65_536  # at most 30 MB of tokens at L = 77


class Plan:
    """The record in each row of each step, and its random numbers.

    Every epoch is a new permutation. Its last ``num_records % batch_size`` records are left out, because no batch may
    mix two epochs. The plan takes at most 16 MB for any number of records.
    """

    def __init__(self, num_records: int, batch_size: int, seed: int):
        self.steps_per_epoch = num_records // batch_size
        self._num_records = num_records
        self._batch_size = batch_size
        self._seed = seed
        self._order = lru_cache(2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(num_records))
        self._epoch_seed = lru_cache(2)(lambda epoch: int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))

    def record(self, step: int, row: int) -> int:
        """Index of the record at `row` of the global batch of `step`."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        position = step_in_epoch * self._batch_size + row
        if self._num_records <= MAX_STORED_ORDER:
            return int(self._order(epoch)[position])
        last = self._num_records - 1
        return grain.experimental.index_shuffle(position, last, self._epoch_seed(epoch), ROUNDS)

    def rng(self, step: int, row: int, part: int = 0) -> np.random.Generator:
        """Random numbers for one part of an example, from its own block of a counter-based generator."""
        return np.random.Generator(np.random.Philox(key=self._seed, counter=[0, row, step, part]))


# Parts of an example. Each has its own random numbers, so no part changes another.
FIRST, SECOND_CAPTION, SECOND_VIEW, TEXT, SECOND_TEXT = range(5)


class Chunk(NamedTuple):
    """Consecutive rows of one local batch."""

    arrays: dict[str, np.ndarray]  # [rows, ...] each, by key of the batch
    failures: list[BadRecord]


class Loader(Iterator[dict[str, np.ndarray]]):
    """Endless training batches of one process.

    A batch is a dict with the keys in `LoaderOptions.keys`. No array depends on the other keys.

        images            uint8 [b, S, S, 3]
        tokens            int32 [b, L], one caption per image, drawn uniformly each time
        caption_tokens    int32 [b, L], one of the image's second captions
        augmented_images  uint8 [b, S, S, 3], a second view of the same image
        augmented_tokens  int32 [b, L], a second view of the same caption
        index             int64 [b], indices of the records

    A record that cannot be read is replaced by the record `STRIDE` positions later, counted and logged. The replacement
    depends on the record only, so batches are the same for any number of processes.

    Attributes:
      step: index of the next batch; a new loader with this `start_step` continues bit for bit.
      steps_per_epoch: batches in one pass over the records.
    """

    def __init__(self, source: RecordSource, tokenizer: Tokenizer, options: LoaderOptions, start_step: int = 0):
        """Start loading with the batch of index `start_step`; `UserError` if a batch is larger than the data."""
        batch, records = options.batch_size, len(source)
        if batch > records:
            raise UserError(f"batch_size {batch} exceeds the {records} training records; use {records} or less.")
        self._source, self._tokenizer, self._options = source, tokenizer, options
        self._arrays = example_arrays(options, tokenizer.context_length)
        self._plan = Plan(len(source), options.batch_size, options.seed)
        self._tokens = lru_cache(CACHED_CAPTIONS)(lambda caption: tokenizer(caption)[0])
        self._first_row = options.process_index * options.local_batch
        self._chunks_per_batch = options.local_batch // options.chunk
        # Captions of the first records by index, until they are checked. Class names are checked when they are read.
        self._first_captions: dict[int, Sequence[str]] | None = None if source.classes else {}
        self._bad = BadRecords(len(source), options.max_bad_fraction)
        self.step = start_step
        self.steps_per_epoch = self._plan.steps_per_epoch
        self._chunks = self._start()

    @property
    def bad_records(self) -> int:
        """Number of failed reads in the batches returned so far."""
        return self._bad.count

    def __next__(self) -> dict[str, np.ndarray]:
        chunks = [next(self._chunks) for _ in range(self._chunks_per_batch)]
        self._bad.add(self._options.local_batch, [failure for chunk in chunks for failure in chunk.failures])
        self.step += 1
        self._check_captions()
        return {name: np.concatenate([chunk.arrays[name] for chunk in chunks]) for name in self._arrays}

    def _check_captions(self) -> None:
        """Once, with the first batch: warn of captions that are probably no captions."""
        captions, self._first_captions = self._first_captions, None
        if captions and processes.is_main():
            for line in warnings_of("train", [*captions.values()]):
                LOG.warning("%s", line)

    def records(self, step: int) -> list[tuple[int, str]]:
        """(index, key) of each record of the global batch of `step`, before bad records were replaced."""
        indices = [self._plan.record(step, row) for row in range(self._options.batch_size)]
        return [(index, self._source.key(index)) for index in indices]

    def close(self) -> None:
        """Stop the threads; the loader returns no more batches."""
        self._chunks.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _start(self) -> grain.DatasetIterator:
        first, threads = self.step * self._chunks_per_batch, self._options.num_threads
        chunks = grain.MapDataset.range(first, np.iinfo(np.int64).max).map(self._chunk)
        # By default Grain prefetches 500 elements, here 500 chunks of images.
        buffered = max(threads, self._options.prefetch * self._chunks_per_batch)
        iterator = iter(chunks.to_iter_dataset(grain.ReadOptions(threads, buffered)))
        iterator.start_prefetch()  # makes the first batches while the training step compiles
        return iterator

    def _chunk(self, number: int) -> Chunk:
        step, part = divmod(number, self._chunks_per_batch)
        size = self._options.chunk
        arrays = {key: np.empty((size, *shape), dtype) for key, (shape, dtype) in self._arrays.items()}
        chunk = Chunk(arrays, failures=[])
        first_row = self._first_row + part * size
        for i in range(size):
            for key, value in self._row(chunk.failures, step, first_row + i).items():
                arrays[key][i] = value
        return chunk

    def _row(self, failures: list[BadRecord], step: int, row: int) -> dict[str, np.ndarray | int]:
        """Make one example; append failed reads to `failures`. Never raises: Grain would lose or repeat elements."""
        planned, num_records = self._plan.record(step, row), len(self._source)
        for attempt in range(MAX_SUBSTITUTES):
            index = (planned + attempt * STRIDE) % num_records
            try:
                return self._example(index, step, row)
            except Exception as error:  # a decoder may raise anything
                failures.append(BadRecord(index, self._source.key(index), f"{type(error).__name__}: {error}"))
        # Any sensible limit of bad records stops the run here. If the limit allows them, train on a white image.
        blank = {key: WHITE if shape[2:] else self._tokens("") for key, (shape, _) in self._arrays.items()}
        return blank | ({"index": planned} if "index" in blank else {})

    def _example(self, index: int, step: int, row: int) -> dict[str, np.ndarray | int]:
        """One value for each key of the batch, made from record `index`."""
        record, options, draw = self._source[index], self._options, functools.partial(self._plan.rng, step, row)
        check_image(record.image)
        rng = draw(FIRST)
        caption = _one_of(record.captions, rng)
        if (first := self._first_captions) is not None and len(first) < SAMPLE:
            first[index] = record.captions
        if "caption_tokens" in self._arrays and not record.second_captions:
            raise ValueError("no second caption")
        make = {
            "images": lambda: options.augment(record.image, rng),
            "tokens": lambda: self._tokenized(caption, options.text_augment, draw, TEXT),
            "caption_tokens": lambda: self._tokens(_one_of(record.second_captions, draw(SECOND_CAPTION))),
            "augmented_images": lambda: options.view_augment(record.image, draw(SECOND_VIEW)),
            "augmented_tokens": lambda: self._tokenized(caption, options.view_text_augment, draw, SECOND_TEXT),
            "index": lambda: index,
        }
        return {key: make[key]() for key in self._arrays}

    def _tokenized(self, caption: str, augment: TextAugment | None, draw: Callable, part: int) -> np.ndarray:
        """Tokens of a caption. An augmented caption rarely occurs again, so its tokens are not cached."""
        return self._tokens(caption) if augment is None else self._tokenizer(augment(caption, draw(part)))[0]


def _one_of(captions: Sequence[str], rng: np.random.Generator) -> str:
    return captions[rng.integers(len(captions))]
