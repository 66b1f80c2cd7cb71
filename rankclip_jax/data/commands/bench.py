"""`bench`: how fast pairs are made, stage by stage, and which stage limits.

One thread walks through the same pairs stage by stage; then the loader runs as in training.
"""

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

from rankclip_jax.data.commands.sections import sample, tokenizer_of, training_set
from rankclip_jax.data.images.decode import DecodedRecords, decode
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import loader_options
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.text.augment import make_text_augment
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.text_table import text_table

Stages = dict[str, tuple[Callable[[Any], Any], Sequence]]
ROUNDS = 3  # of every stage, in turn: what slows the machine down for a moment slows all of them


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_integer("pairs", 300, "how many pairs the stages walk through", lower_bound=1)
    flags.DEFINE_integer(
        "threads", os.cpu_count() or 1, "the loader runs with 1, 2, 4 ... up to so many", lower_bound=1
    )
    flags.DEFINE_float("seconds", 5.0, "how long each run of the loader takes", lower_bound=0.1)


def run(config: ConfigDict) -> None:
    """Time the stages, then the loader."""
    dataset = training_set(config)
    tokenizer = tokenizer_of(config, dataset.train)
    train = dataset.train
    numbers = [number for number in sample(len(train), flags.FLAGS.pairs).tolist() if _is_sound(train, number)]
    if not numbers:
        raise UserError("none of the pairs can be read: see python -m rankclip_jax.data validate.")
    size = config.model.image.image_size
    seconds = _timed(_stages(config, train, numbers, tokenizer))
    print(_table(seconds, len(numbers)))
    if isinstance(train, DecodedRecords):
        encoded, plain = [train.pairs.image_bytes(number) for number in numbers], make_augment("none", size)
        ours, bare = lambda data: plain(decode(data), None), lambda data: bare_pillow(data, size)
        found = _timed({"ours": (ours, encoded), "bare": (bare, encoded)})
        ratio = found["bare"] / found["ours"]
        print(f"decode and resize to {size}: {len(numbers) / found['ours']:,.0f} a second, {ratio:.2f} x bare Pillow")
    _print_loader(config, dataset, tokenizer, max(seconds, key=seconds.get))


def _is_sound(train: RecordSource, number: int) -> bool:
    try:
        return bool(train[number].captions)
    except Exception:  # `validate` says why
        return False


def _stages(config: ConfigDict, train: RecordSource, numbers: Sequence[int], tokenizer: Tokenizer) -> Stages:
    """What is done to a pair, with what each stage is given; sets in memory are not decoded."""
    data, size = config.data, config.model.image.image_size
    augment = make_augment(data.augment, size, config.model.image.resize)
    text, rng = make_text_augment(data.text_augment), np.random.default_rng(0)
    images = [train[number].image for number in numbers]
    captions = [train.captions(number)[0] for number in numbers]
    stages: Stages = {"read": (train.__getitem__, numbers)}
    if isinstance(train, DecodedRecords):
        pairs = train.pairs
        stages["read"] = (lambda number: (pairs.image_bytes(number), pairs.captions(number)), numbers)
        stages["decode"] = (decode, [pairs.image_bytes(number) for number in numbers])
    stages["transform"] = (lambda image: augment(image, rng), images)
    stages["tokenize"] = (lambda caption: tokenizer(text(caption, rng) if text else caption), captions)
    return stages


def _timed(stages: Stages) -> dict[str, float]:
    """Best seconds of each stage over all it is given."""
    best = dict.fromkeys(stages, float("inf"))
    for _, (name, (work, inputs)) in itertools.product(range(ROUNDS), stages.items()):
        began = time.perf_counter()
        for given in inputs:
            work(given)
        best[name] = min(best[name], time.perf_counter() - began)
    return best


def bare_pillow(data: bytes, size: int) -> np.ndarray:
    """The least that CLIP's preprocessing can be: what a loop by hand would do."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = size / min(image.size)
    width, height = (size if edge == min(image.size) else int(edge * scale) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _table(seconds: dict[str, float], count: int) -> str:
    total = sum(seconds.values())
    rows = [("stage", "ms a pair", "pairs/s", "share")]
    rows += [(n, f"{1000 * s / count:.2f}", f"{count / s:,.0f}", f"{s / total:.0%}") for n, s in seconds.items()]
    rows.append(("all", f"{1000 * total / count:.2f}", f"{count / total:,.0f}", ""))
    return f"one thread, {count} pairs\n{text_table(rows)}"


def _print_loader(config: ConfigDict, dataset: Dataset, tokenizer: Tokenizer, slowest: str) -> None:
    batch, most = min(config.batch_size, len(dataset.train)), flags.FLAGS.threads
    print(f"loader, batches of {batch}")
    rate = 0.0
    for threads in sorted({*itertools.takewhile(lambda n: n < most, (1 << i for i in range(20))), most}):
        rate = _loader_rate(config, dataset, tokenizer, batch, threads)
        print(f"  {threads:>3} threads  {rate:>9,.0f} pairs/s", flush=True)
    print(
        f"a step of {config.batch_size} pairs waits for data when it takes less than {config.batch_size / rate:.3g} s "
        f"(on one machine); most of the time goes into {slowest}"
    )


def _loader_rate(config: ConfigDict, dataset: Dataset, tokenizer: Tokenizer, batch: int, threads: int) -> float:
    prefetch = config.data.prefetch
    options = loader_options(config, batch_size=batch, num_threads=threads, max_bad_fraction=1.0)
    with Loader(dataset.train, tokenizer, options) as loader:
        for _ in range(prefetch + 1):  # what was made ahead would count for nothing
            next(loader)
        began, pairs = time.perf_counter(), 0
        while time.perf_counter() - began < flags.FLAGS.seconds:
            next(loader)
            pairs += batch
        return pairs / (time.perf_counter() - began)
