"""`stats`: prints counts, image sizes and caption lengths of a data set.

All captions are read. Image headers and numbers of tokens are read for a fixed sample of ``--pairs`` pairs. With
``--full_digest`` all images are read too. Memory does not depend on the number of pairs.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.caption_check import CaptionCheck, section
from rankclip_jax.data.commands.full_digest import full_digest
from rankclip_jax.data.commands.repeats import Repeats
from rankclip_jax.data.commands.sections import MakeTokenizer, sample, sections_of, training_set
from rankclip_jax.data.images.decode import DecodedRecords, open_image
from rankclip_jax.data.images.types import height_width
from rankclip_jax.data.in_parallel import in_parallel
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.terminal.show import show

STORED = "  (stored under data in the config.json of a run; docs/data.md says what it covers; --full_digest covers all)"
BINS = 10
BAR = 40  # characters of the longest bar
QUANTILES = {"min": 0, "5%": 5, "median": 50, "95%": 95, "max": 100}


class Captions(NamedTuple):
    """Facts about a chunk of pairs: numbers of captions per pair, hash of each caption, number of unreadable pairs.

    `check` has suspicious captions; it is empty for captions made of class names.
    """

    counts: list[int]
    hashes: np.ndarray  # int64
    unreadable: int
    check: CaptionCheck


class Details(NamedTuple):
    """Facts about a chunk of sampled pairs: tokens of each caption, (width, height) and formats of the images."""

    lengths: list[int]
    sizes: list[tuple[int, int]]
    formats: Counter
    unreadable: int


def define_flags() -> None:
    """Define the flags of this command."""
    text = "number of pairs whose image headers and tokens are read; 0 for all"
    flags.DEFINE_integer("pairs", 100_000, text, lower_bound=0)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "number of reading threads", lower_bound=1)
    flags.DEFINE_bool("full_digest", False, "also print a digest of all keys, captions, labels and images")


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Print the statistics of the training data of `config`."""
    num_pairs, threads = flags.FLAGS.pairs, flags.FLAGS.threads
    dataset = training_set(config)
    train, tokenizer = dataset.train, make_tokenizer(config, dataset.train)
    show(_counts(dataset))
    show(_captions(in_parallel(partial(_read_captions, train), range(len(train)), threads, "captions of train")))
    indices = sample(len(train), num_pairs)
    chunks = in_parallel(partial(_read_details, train, tokenizer), indices, threads, "images and tokens of train")
    show(_details(list(chunks), tokenizer.context_length))
    for part in sections_of(config) if flags.FLAGS.full_digest else ():
        digest, bad = full_digest(part, threads)
        show(f"full digest of {part.name}: {digest}" + (f" ({bad:,} pairs are unreadable in part)" if bad else ""))


def _counts(dataset: Dataset) -> str:
    rows = [f"{name}: {count:,} images" for name, count in dataset.counts.items()]
    texts = [f"{name}: {len(split.texts):,} texts" for name, split in dataset.evals.items()]
    return "\n".join([f"digest {dataset.digest}", STORED, *rows, *texts])


def _read_captions(train: RecordSource, indices: Sequence[int]) -> Captions:
    counts, hashes, check = [], [], CaptionCheck()
    for index in indices:
        try:
            captions = train.captions(index)
        except Exception:  # `validate` reports the pair and the reason
            continue
        counts.append(len(captions))
        hashes.extend(map(hash, captions))
        if not train.classes:
            check.add(captions)
    return Captions(counts, np.array(hashes, np.int64), len(indices) - len(counts), check)


def _captions(chunks: Iterable[Captions]) -> str:
    repeats, check, pairs, most, unreadable = Repeats(), CaptionCheck(), 0, 0, 0
    for chunk in chunks:
        repeats.add(chunk.hashes)
        check.merge(chunk.check)
        pairs += len(chunk.counts)
        most = max(most, *chunk.counts, 0)
        unreadable += chunk.unreadable
    if not repeats.total:
        return "captions: none can be read; see `validate`"
    again, about = repeats.repeats(), "" if repeats.is_exact else "about "
    lines = [
        f"captions: {repeats.total:,}, {repeats.total / pairs:.2f} per image (at most {most})",
        f"repeated captions: {about}{again / repeats.total:.2%} ({about}{again:,} equal the caption of another pair)",
    ]
    lines += [f"unreadable captions: {unreadable:,}; see `validate`"] if unreadable else []
    return "\n".join([*lines, *section(check)])


def _read_details(train: RecordSource, tokenizer: Tokenizer, indices: Sequence[int]) -> Details:
    lengths, sizes, formats = [], [], Counter()
    for index in indices:
        try:
            name, size = _header(train, index)
            lengths.extend(tokenizer.lengths(train.captions(index)))
        except Exception:  # `validate` reports the pair and the reason
            continue
        sizes.append(size)
        formats[name] += 1
    return Details(lengths, sizes, formats, len(indices) - len(sizes))


def _details(chunks: Sequence[Details], context_length: int) -> str:
    lengths = np.array([length for chunk in chunks for length in chunk.lengths])
    sizes = np.array([size for chunk in chunks for size in chunk.sizes])
    unreadable = sum(chunk.unreadable for chunk in chunks)
    title = f"sample of {len(sizes) + unreadable:,} pairs" + (f", {unreadable:,} unreadable" if unreadable else "")
    if not len(sizes):
        return f"{title}: see `validate`"
    formats = sum((chunk.formats for chunk in chunks), Counter()).most_common()
    return "\n".join(
        [
            f"{title}:",
            "images: " + ", ".join(f"{name} {count / len(sizes):.1%}" for name, count in formats),
            _quantiles("width", sizes[:, 0]),
            _quantiles("height", sizes[:, 1]),
            _quantiles("shorter side", sizes.min(axis=1)),
            f"tokens per caption; the text tower reads {context_length} "
            f"({(lengths > context_length).mean():.2%} of the captions are longer and cut):",
            histogram(lengths, context_length),
        ]
    )


def _header(train: RecordSource, index: int) -> tuple[str, tuple[int, int]]:
    """Format and (width, height) of an image; an encoded image is not decoded."""
    if isinstance(train, DecodedRecords):
        image = open_image(train.pairs.image_bytes(index))
        return image.format or "?", image.size
    height, width = height_width(train[index].image)
    return "in memory", (width, height)


def _quantiles(name: str, values: np.ndarray) -> str:
    found = np.percentile(values, list(QUANTILES.values()), method="nearest").astype(int)
    return f"  {name:<13}" + ", ".join(f"{label} {value}" for label, value in zip(QUANTILES, found, strict=True))


def histogram(lengths: Sequence[int] | np.ndarray, context_length: int) -> str:
    """Text bars: the fraction of lengths in each tenth of the context, and above the context."""
    width = -(-context_length // BINS)
    longer = -(-context_length // width)  # index of the last bin
    lengths = np.asarray(lengths)
    bins = np.where(lengths > context_length, longer, (lengths - 1) // width)
    counts = np.bincount(bins, minlength=longer + 1)
    lines = []
    for number, count in enumerate(counts):
        first, last = number * width + 1, min((number + 1) * width, context_length)
        label = f"{first:>4} to {last}" if number < longer else f"over {context_length}"
        lines.append(f"  {label:>12}  {count / len(lengths):>6.1%}  {'#' * round(BAR * count / counts.max())}".rstrip())
    return "\n".join(lines)
