"""Batches as a pure function of (seed, step), the same for any number of processes.

Letters: B rows of the global batch, b = B / process_count local rows, S image side, L tokens.

Which record is row r of step t, and its random numbers, are computed from (seed, t, r) directly.
Each process computes its own contiguous rows of every global batch and nothing else, so putting
the processes' batches one after the other gives the batch of a single process, bit for bit, and
the whole state of the stream is the number of the next step.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np

from rankclip_jax.data.bad_records import BadRecord, BadRecords
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.images.types import WHITE, check_image
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.augment import TextAugment, make_text_augment
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError

MAX_CHUNK = 32  # examples a thread makes at a time: large against overhead, small against a batch
STRIDE = 7919  # a prime: substitutes of neighbouring bad records are far apart
MAX_SUBSTITUTES = 16
# Grain's index_shuffle stores nothing, but below 65,536 records its cost grows as they get fewer: 24 us a
# draw for 1,000. An order in memory costs nothing there.
MAX_STORED_ORDER = 1 << 20
CACHED_CAPTIONS = 65_536  # at most 30 MB of tokens at L = 77


class Plan:
    """Which record each row of each step takes, and its random numbers.

    Every epoch is a new permutation; its last ``num_records % batch_size`` records are left out, so
    epochs never mix in one batch. Memory is at most 16 MB, whatever the number of records.
    """

    def __init__(self, num_records: int, batch_size: int, seed: int):
        self.steps_per_epoch = num_records // batch_size
        self._num_records = num_records
        self._batch_size = batch_size
        self._seed = seed
        self._order = lru_cache(2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(num_records))

    def record(self, step: int, row: int) -> int:
        """Index of the record at `row` of the global batch of `step`."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        position = step_in_epoch * self._batch_size + row
        if self._num_records <= MAX_STORED_ORDER:
            return int(self._order(epoch)[position])
        epoch_seed = int(np.random.SeedSequence((self._seed, epoch)).generate_state(1)[0])
        last = self._num_records - 1
        return grain.experimental.index_shuffle(position, max_index=last, seed=epoch_seed, rounds=4)

    def rng(self, step: int, row: int, part: int = 0) -> np.random.Generator:
        """Random numbers of one part of an example: its own block of a counter-based generator."""
        return np.random.Generator(np.random.Philox(key=self._seed, counter=[0, row, step, part]))


# Parts of an example that draw on their own, so that none changes another.
FIRST, SECOND_CAPTION, SECOND_VIEW, TEXT, SECOND_TEXT = range(5)


class Chunk(NamedTuple):
    """Consecutive rows of one local batch."""

    arrays: dict[str, np.ndarray]  # [rows, ...] each, by key of the batch
    failures: list[BadRecord]


class Loader(Iterator[dict[str, np.ndarray]]):
    """Endless training batches of one process.

    Each batch is a dict of ``images`` uint8 [b, S, S, 3], ``tokens`` int32 [b, L] and ``index``
    int32 [b], the records they are. One caption per image is drawn uniformly each time. On demand there
    are also ``caption_tokens`` int32 [b, L], one of its second captions; ``augmented_images`` uint8
    [b, S, S, 3] and ``augmented_tokens`` int32 [b, L], second views of the same image and caption, by
    another draw of the augmentation or by one of their own. The rest stays as it is without.

    A record that cannot be read is replaced by the one `STRIDE` further on, counted and logged; the
    replacement depends on the record alone, so streams stay equal for any number of processes.

    Attributes:
      step: number of the next batch; a new loader with this `start_step` continues bit for bit.
      steps_per_epoch: batches in one pass over the records.
    """

    def __init__(
        self,
        source: RecordSource,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        image_size: int,
        augment: str = "none",
        text_augment: str = "none",
        view_augment: str = "",
        view_text_augment: str = "",
        resize: str = "crop",
        inputs: Sequence[str] = ("images", "tokens"),
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        num_threads: int = 2,
        prefetch: int = 2,
        max_bad_fraction: float = 0.01,
    ):
        """Start loading at `start_step`.

        Args:
          source: training records.
          tokenizer: for the captions.
          batch_size: B, rows of the global batch.
          seed: non-negative; with the step it decides everything.
          image_size: S, pixels.
          augment: steps as in `transforms.make_augment`.
          text_augment: steps as in `text_augment.make_text_augment`, for the captions (not the second ones).
          view_augment: the steps for second views of images; "" for those of `augment`.
          view_text_augment: the same for captions.
          resize: how images get their size, a key of `transforms.RESIZES`.
          inputs: keys of the batch beside ``index``, as `needs.batch_keys` gives them.
          start_step: first step to give.
          process_index: which slice of each global batch this process takes.
          process_count: how many slices there are.
          num_threads: threads that decode, augment and tokenize; 0 does it in the caller's.
          prefetch: local batches to make ahead; they are held in memory.
          max_bad_fraction: share of unreadable records above which the run stops.

        Raises:
          UserError: the batch does not divide among the processes or exceeds the data, or a number is negative.
        """
        check_options(len(source), batch_size, process_count, seed, num_threads)
        self._source = source
        self._augment = make_augment(augment, image_size, resize)
        self._view = make_augment(view_augment, image_size, resize) if view_augment else self._augment
        self._text = make_text_augment(text_augment)
        self._view_text = make_text_augment(view_text_augment) if view_text_augment else self._text
        self._arrays = arrays_of(inputs, image_size, tokenizer.context_length)
        self._plan = Plan(len(source), batch_size, seed)
        self._tokenizer = tokenizer
        self._tokens = lru_cache(CACHED_CAPTIONS)(lambda caption: tokenizer(caption)[0])
        self._local_size = batch_size // process_count
        self._first_row = process_index * self._local_size
        self._chunk_size = math.gcd(self._local_size, MAX_CHUNK)
        self._chunks_per_batch = self._local_size // self._chunk_size
        self._bad = BadRecords(len(source), max_bad_fraction)
        self.step = start_step
        self.steps_per_epoch = self._plan.steps_per_epoch
        self._chunks = self._start(num_threads, prefetch)

    @property
    def bad_records(self) -> int:
        """Failed reads in the batches given so far by this loader."""
        return self._bad.count

    def __next__(self) -> dict[str, np.ndarray]:
        chunks = [next(self._chunks) for _ in range(self._chunks_per_batch)]
        self._bad.add(self._local_size, [failure for chunk in chunks for failure in chunk.failures])
        self.step += 1
        return {name: np.concatenate([chunk.arrays[name] for chunk in chunks]) for name in self._arrays}

    def close(self) -> None:
        """Stop the threads; the loader gives no more batches."""
        self._chunks.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _start(self, num_threads: int, prefetch: int) -> grain.DatasetIterator:
        first = self.step * self._chunks_per_batch
        chunks = grain.MapDataset.range(first, np.iinfo(np.int64).max).map(self._chunk)
        # Grain's own default prefetch is 500 elements, here 500 chunks of images.
        options = grain.ReadOptions(num_threads, max(num_threads, prefetch * self._chunks_per_batch))
        iterator = iter(chunks.to_iter_dataset(options))
        iterator.start_prefetch()  # so that the first batches are made while the step compiles
        return iterator

    def _chunk(self, number: int) -> Chunk:
        step, part = divmod(number, self._chunks_per_batch)
        arrays = {key: np.empty((self._chunk_size, *shape), dtype) for key, (shape, dtype) in self._arrays.items()}
        chunk = Chunk(arrays, failures=[])
        first_row = self._first_row + part * self._chunk_size
        for i in range(self._chunk_size):
            self._fill(chunk, i, step, first_row + i)
        return chunk

    def _fill(self, chunk: Chunk, i: int, step: int, row: int) -> None:
        """Make one example. Never raises: Grain would lose or repeat elements."""
        planned = self._plan.record(step, row)
        num_records = len(self._source)
        for attempt in range(MAX_SUBSTITUTES):
            index = (planned + attempt * STRIDE) % num_records
            try:
                self._write(chunk, i, self._example(index, step, row))
                return
            except Exception as error:  # whatever a decoder raises
                reason = f"{type(error).__name__}: {error}"
                chunk.failures.append(BadRecord(index, self._source.key(index), reason))
        # So many failures in one row are above any sensible ceiling; if not, train on white.
        blank = {key: WHITE if shape[2:] else self._tokens("") for key, (shape, _) in self._arrays.items()}
        self._write(chunk, i, blank | {"index": planned})

    def _write(self, chunk: Chunk, i: int, example: dict[str, np.ndarray | int]) -> None:
        for key, value in example.items():
            chunk.arrays[key][i] = value

    def _example(self, index: int, step: int, row: int) -> dict[str, np.ndarray | int]:
        """Record `index` as the row of a step: an entry for each array of the batch."""
        record, draw = self._source[index], functools.partial(self._plan.rng, step, row)
        image = record.image
        check_image(image)
        rng = draw(FIRST)
        caption = _one_of(record.captions, rng)
        example = {"index": index, "images": self._augment(image, rng)}
        example["tokens"] = self._changed(caption, self._text, draw, TEXT)
        if "caption_tokens" in self._arrays:
            if not record.second_captions:
                raise ValueError("no second caption")
            example["caption_tokens"] = self._tokens(_one_of(record.second_captions, draw(SECOND_CAPTION)))
        if "augmented_images" in self._arrays:
            example["augmented_images"] = self._view(image, draw(SECOND_VIEW))
        if "augmented_tokens" in self._arrays:
            example["augmented_tokens"] = self._changed(caption, self._view_text, draw, SECOND_TEXT)
        return example

    def _changed(self, caption: str, change: TextAugment | None, draw: Callable, part: int) -> np.ndarray:
        """Tokens of a caption; those of a changed one are not worth keeping."""
        return self._tokens(caption) if change is None else self._tokenizer(change(caption, draw(part)))[0]


def _one_of(captions: Sequence[str], rng: np.random.Generator) -> str:
    return captions[rng.integers(len(captions))]


def arrays_of(inputs: Sequence[str], image_size: int, context_length: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of one example in each array of a batch."""
    image, text = ((image_size, image_size, 3), np.uint8), ((context_length,), np.int32)
    of_key = {"images": image, "augmented_images": image}
    of_key |= {"tokens": text, "caption_tokens": text, "augmented_tokens": text}
    return {key: of_key[key] for key in inputs} | {"index": ((), np.int32)}


def held_bytes(
    inputs: Sequence[str], local_batch: int, image_size: int, context_length: int, num_threads: int, prefetch: int
) -> int:
    """Most bytes that a loader's examples take: those made ahead or being made, and the batch it gives.

    An image of its own size for each thread comes on top.
    """
    arrays = arrays_of(inputs, image_size, context_length).values()
    example = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays)
    ahead = max(num_threads * math.gcd(local_batch, MAX_CHUNK), prefetch * local_batch)
    # The batch it gives exists twice for a moment: in chunks, and joined.
    return example * (ahead + 2 * local_batch)


def check_options(num_records: int, batch_size: int, process_count: int, seed: int, num_threads: int) -> None:
    """Refuse what a `Loader` cannot work with, for a caller that wants to know before it has one."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size {batch_size} does not divide among {process_count} processes; change it.")
    if batch_size > num_records:
        raise UserError(
            f"batch_size {batch_size} exceeds the {num_records} training records; use {num_records} or less."
        )
    if seed < 0:
        raise UserError(f"seed is {seed}; use 0 or a positive number.")
    if num_threads < 0:
        raise UserError(f"num_threads is {num_threads}; use 0 or a positive number.")
