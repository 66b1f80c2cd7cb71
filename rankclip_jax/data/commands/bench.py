"""`bench`: times each stage in one thread, on the same pairs, and then the loader as in training."""

import io
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.data.commands.sections import MakeTokenizer, make_loader, sample, training_set
from rankclip_jax.data.images.decode import DecodedRecords, decode
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.augment import make_text_augment
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import show
from rankclip_jax.terminal.tables import text_table

Stages = dict[str, tuple[Callable[[Any], Any], Sequence]]
ROUNDS = 3  # each round runs all stages, because the machine may be slow for a moment


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_integer("pairs", 300, "number of pairs for each stage", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "the loader runs with 1, 2, 4 ... N threads", lower_bound=1)
    flags.DEFINE_float("seconds", 5.0, "duration of each run of the loader", lower_bound=0.1)


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Time the stages, then the loader."""
    num_pairs, max_threads, loader_seconds = flags.FLAGS.pairs, flags.FLAGS.threads, flags.FLAGS.seconds
    train = training_set(config).train
    tokenizer = make_tokenizer(config, train)
    indices = [index for index in sample(len(train), num_pairs) if _is_readable(train, index)]
    if not indices:
        raise UserError("none of the pairs can be read: see python -m rankclip_jax.data validate.")
    seconds = _timed(_stages(config, train, indices, tokenizer))
    show(_table(seconds, len(indices)))
    if isinstance(train, DecodedRecords):
        show(_against_pillow([train.pairs.image_bytes(index) for index in indices], config.model.image.image_size))
    batch_size, rate = min(config.batch_size, len(train)), 0.0
    show(f"loader, batches of {batch_size}")
    for threads in [*itertools.takewhile(lambda n: n < max_threads, (1 << i for i in range(20))), max_threads]:
        with make_loader(config, train, tokenizer, batch_size=batch_size, num_threads=threads) as loader:
            rate = batch_size * _batches_per_second(loader, config.data.prefetch, loader_seconds)
        show(f"  {threads:>3} threads  {rate:>9,.0f} pairs/s")
    show(
        f"a training step of {config.batch_size} pairs waits for data if it takes less than "
        f"{config.batch_size / rate:.3g} s (on one machine); the slowest stage is {max(seconds, key=seconds.get)}"
    )


def _is_readable(train: RecordSource, index: int) -> bool:
    try:
        return bool(train[index].captions)
    except Exception:  # `validate` reports the reason
        return False


def _stages(config: ConfigDict, train: RecordSource, indices: Sequence[int], tokenizer: Tokenizer) -> Stages:
    """The function and the inputs of each stage. Data sets in memory have no stage "decode"."""
    augment = make_augment(config.data.augment, config.model.image.image_size, config.model.image.resize)
    text, rng = make_text_augment(config.data.text_augment), np.random.default_rng(0)
    images = [train[index].image for index in indices]
    captions = [train.captions(index)[0] for index in indices]
    stages: Stages = {"read": (train.__getitem__, indices)}
    if isinstance(train, DecodedRecords):
        pairs = train.pairs
        stages["read"] = (lambda index: (pairs.image_bytes(index), pairs.captions(index)), indices)
        stages["decode"] = (decode, [pairs.image_bytes(index) for index in indices])
    stages["transform"] = (lambda image: augment(image, rng), images)
    stages["tokenize"] = (lambda caption: tokenizer(text(caption, rng) if text else caption), captions)
    return stages


def _timed(stages: Stages) -> dict[str, float]:
    """Seconds of each stage for all its inputs, in the fastest round."""
    best = dict.fromkeys(stages, float("inf"))
    for _, (name, (work, inputs)) in itertools.product(range(ROUNDS), stages.items()):
        began = time.perf_counter()
        for value in inputs:
            work(value)
        best[name] = min(best[name], time.perf_counter() - began)
    return best


def _table(seconds: dict[str, float], count: int) -> str:
    total = sum(seconds.values())
    rows = [("stage", "ms per pair", "pairs/s", "share")]
    rows += [(n, f"{1000 * s / count:.2f}", f"{count / s:,.0f}", f"{s / total:.0%}") for n, s in seconds.items()]
    rows.append(("all", f"{1000 * total / count:.2f}", f"{count / total:,.0f}", ""))
    return f"one thread, {count} pairs\n{text_table(rows)}"


def _against_pillow(encoded: Sequence[bytes], size: int) -> str:
    augment = make_augment("none", size)
    package, pillow = (lambda data: augment(decode(data), None)), (lambda data: bare_pillow(data, size))
    seconds = _timed({"package": (package, encoded), "pillow": (pillow, encoded)})
    rate, ratio = len(encoded) / seconds["package"], seconds["pillow"] / seconds["package"]
    return f"decode and resize to {size}: {rate:,.0f} images/s, {ratio:.2f} x bare Pillow"


def bare_pillow(data: bytes, size: int) -> np.ndarray:
    """CLIP's preprocessing of an encoded image by direct calls of Pillow, to uint8 [size, size, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = size / min(image.size)
    width, height = (size if edge == min(image.size) else int(edge * scale) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _batches_per_second(loader: Loader, prefetch: int, seconds: float) -> float:
    for _ in range(prefetch + 1):  # batches that were made before the clock starts
        next(loader)
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(loader)
        batches += 1
    return batches / (time.perf_counter() - began)
