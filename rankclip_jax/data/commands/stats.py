"""`stats`: what a data set is like, in numbers.

Captions are all read; image headers and tokens are those of ``--pairs`` pairs, the same ones every time.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.sections import in_parallel, sample, tokenizer_of, training_set
from rankclip_jax.data.images.decode import DecodedRecords, open_image
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.text.tokenizer import Tokenizer

BINS = 10
BAR = 40  # characters of the longest bar
QUANTILES = (0, 5, 50, 95, 100)


class Captions(NamedTuple):
    """Of some pairs: how many captions each has, and a hash of every caption."""

    counts: list[int]
    hashes: list[int]
    unreadable: int


class Details(NamedTuple):
    """Of sampled pairs: tokens of every caption, (width, height) and formats of the images."""

    lengths: list[int]
    sizes: list[tuple[int, int]]
    formats: Counter
    unreadable: int


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_integer("pairs", 100_000, "pairs whose image headers and tokens are read; 0 for all", lower_bound=0)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "threads that read", lower_bound=1)


def run(config: ConfigDict) -> None:
    """Print the statistics of what `config` trains on."""
    dataset = training_set(config)
    tokenizer = tokenizer_of(config, dataset.train)
    print(_counts(dataset))
    print(_captions(dataset.train))
    print(_details(dataset.train, tokenizer))


def _counts(dataset: Dataset) -> str:
    rows = [f"{name}: {count:,} images" for name, count in dataset.counts.items()]
    texts = [f"{name}: {len(split.texts):,} texts" for name, split in dataset.evals.items()]
    return "\n".join([f"digest {dataset.digest}", "  (config.json of a run has it under data)", *rows, *texts])


def _captions(train: RecordSource) -> str:
    def work(numbers: np.ndarray) -> Captions:
        found = Captions([], [], 0)
        for number in numbers.tolist():
            try:
                captions = train.captions(number)
            except Exception:  # `validate` says which and why
                found = found._replace(unreadable=found.unreadable + 1)
                continue
            found.counts.append(len(captions))
            found.hashes.extend(map(hash, captions))
        return found

    parts = list(in_parallel(work, np.arange(len(train)), flags.FLAGS.threads, "captions of train"))
    hashes = np.concatenate([np.array(part.hashes, np.int64) for part in parts])
    counts = np.concatenate([np.array(part.counts, np.int64) for part in parts])
    unreadable = sum(part.unreadable for part in parts)
    if not len(hashes):
        return "captions: none can be read; see `validate`"
    distinct = len(np.unique(hashes))
    lines = [
        f"captions: {len(hashes):,}, {counts.mean():.2f} an image (at most {counts.max()})",
        f"repeated captions: {1 - distinct / len(hashes):.2%} ({len(hashes) - distinct:,} are those of another pair)",
    ]
    return "\n".join(lines + ([f"unreadable captions: {unreadable:,}; see `validate`"] if unreadable else []))


def _details(train: RecordSource, tokenizer: Tokenizer) -> str:
    def work(numbers: np.ndarray) -> Details:
        found = Details([], [], Counter(), 0)
        for number in numbers.tolist():
            try:
                name, size = _header(train, number)
                found.lengths.extend(tokenizer.lengths(train.captions(number)))
            except Exception:
                found = found._replace(unreadable=found.unreadable + 1)
                continue
            found.sizes.append(size)
            found.formats[name] += 1
        return found

    numbers = sample(len(train), flags.FLAGS.pairs)
    parts = list(in_parallel(work, numbers, flags.FLAGS.threads, "images and tokens of train"))
    lengths = np.array([length for part in parts for length in part.lengths])
    sizes = np.array([size for part in parts for size in part.sizes])
    unreadable = sum(part.unreadable for part in parts)
    title = f"of {len(numbers):,} pairs" + (f", {unreadable:,} of them unreadable" if unreadable else "")
    if not len(sizes):
        return f"{title}: see `validate`"
    formats = sum((part.formats for part in parts), Counter()).most_common()
    return "\n".join(
        [
            f"{title}:",
            "images: " + ", ".join(f"{name} {count / len(sizes):.1%}" for name, count in formats),
            _quantiles("width", sizes[:, 0]),
            _quantiles("height", sizes[:, 1]),
            _quantiles("shorter side", sizes.min(axis=1)),
            f"tokens of a caption, of {tokenizer.context_length} that the text tower reads "
            f"({(lengths > tokenizer.context_length).mean():.2%} are longer and cut):",
            histogram(lengths, tokenizer.context_length),
        ]
    )


def _header(train: RecordSource, number: int) -> tuple[str, tuple[int, int]]:
    """Format and (width, height) of an image, without decoding it where it is encoded."""
    if isinstance(train, DecodedRecords):
        image = open_image(train.pairs.image_bytes(number))
        return image.format or "?", image.size
    height, width = np.asarray(train[number].image).shape[:2]
    return "in memory", (width, height)


def _quantiles(name: str, values: np.ndarray) -> str:
    found = np.percentile(values, QUANTILES, method="nearest").astype(int)
    return f"  {name:<13}" + ", ".join(
        f"{label} {value}" for label, value in zip(("least", "5%", "median", "95%", "most"), found, strict=True)
    )


def histogram(lengths: Sequence[int] | np.ndarray, context_length: int) -> str:
    """Bars in text: how many lengths are in each tenth of the context, and beyond it."""
    width = -(-context_length // BINS)
    bins = np.minimum((np.asarray(lengths) - 1) // width, -(-context_length // width))
    bins = np.where(np.asarray(lengths) > context_length, -(-context_length // width), bins)
    counts = np.bincount(bins, minlength=-(-context_length // width) + 1)
    lines = []
    for number, count in enumerate(counts):
        first, last = number * width + 1, min((number + 1) * width, context_length)
        label = f"{first:>4} to {last}" if number < len(counts) - 1 else f"over {context_length}"
        lines.append(f"  {label:>12}  {count / len(lengths):>6.1%}  {'#' * round(BAR * count / counts.max())}".rstrip())
    return "\n".join(lines)
