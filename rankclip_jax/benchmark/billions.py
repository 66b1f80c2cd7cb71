"""The start of a run on billions of pairs, in a synthetic bucket with a synthetic index (`synthetic_bucket`).

    python -m rankclip_jax.benchmark billions [--pairs=2000000000] [--shards=200000] [--processes=64] [--json=FILE]

The data are opened like those of a run: a range of tars, held-out pairs, the digest. Then the loader makes the first
batch. The columns:

    seconds_to_open    from the location to the training pairs: the index is mapped, held-out captions are read
    requests           to the bucket until then
    seconds_to_first   from there to the first batch
    peak_mib           largest resident memory of the process until then, with Python and all libraries
    resumes            whether a loader that starts at a later step gives the batch of the undisturbed one, bit for bit
    same_batches       whether the rows of all processes, simulated one after the other, are the batch of one process
"""

import itertools
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.benchmark.noise_tars import SHARDS, write_tars
from rankclip_jax.data.images.extensions import EXTENSIONS
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader, Plan
from rankclip_jax.data.loader_options import LoaderOptions
from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources.assemble import load
from rankclip_jax.data.sources.options import FileOptions
from rankclip_jax.data.sources.selection import select
from rankclip_jax.data.text.tokenizer import TOKENIZERS
from rankclip_jax.errors import UserError

PARTS = (EXTENSIONS, ("txt",))
SIDE, CONTEXT_LENGTH = 32, 77  # pixels, tokens: what is measured is the choice of pairs, not the decoder
SEED = 0
LATER = 1_000  # a step to resume at


def define_flags() -> None:
    flags.DEFINE_integer("pairs", 2_000_000_000, "number of pairs", lower_bound=1000)
    flags.DEFINE_integer("shards", 200_000, "number of tars", lower_bound=1, upper_bound=1_000_000)
    flags.DEFINE_integer("val_pairs", 2000, "pairs to hold out", lower_bound=1)
    flags.DEFINE_integer("train_limit", 0, "pairs to train on; 0 for all", lower_bound=0)
    flags.DEFINE_integer("batch", 4096, "pairs in a batch", lower_bound=1)
    flags.DEFINE_integer("processes", 64, "number of simulated processes", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "threads of the loader", lower_bound=1)


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    if chosen.pairs % chosen.shards:
        raise UserError(f"--pairs={chosen.pairs} is no multiple of --shards={chosen.shards}: change one of them.")
    names = ("pairs", "shards", "val_pairs", "train_limit", "batch", "processes", "threads")
    with tempfile.TemporaryDirectory() as folder:
        yield [{"case": "rankclip_jax", "folder": folder} | {name: chosen[name].value for name in names}]


def build(case: Row) -> Case:
    """Open the data and load the first batch; a run loads another one."""
    _prepare(case)
    from rankclip_jax.benchmark.synthetic_bucket import Bucket, location_of

    began = time.perf_counter()
    chosen = {name: case[name] for name in ("val_pairs", "train_limit")}
    location = location_of(case["shards"])
    data = load(FileOptions(name="webdataset", train=location, index_dir=case["folder"], **chosen))
    opened, requests = time.perf_counter(), sum(Bucket.requests.values())
    stream = _loader(data, case)
    first = next(stream)
    facts = {
        "seconds_to_open": opened - began,
        "requests": requests,
        "seconds_to_first": time.perf_counter() - opened,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bad_records": stream.bad_records,
    }
    stream.close()
    checks = {"resumes": _resumes(data, case), "same_batches": _same_batches(data, case, first)}
    facts |= {name: "yes" if holds else "no" for name, holds in checks.items()}

    def run() -> None:
        with _loader(data, case, step=1) as loader:
            next(loader)

    return Case(run, {name: value for name, value in case.items() if name != "folder"} | facts)


def _prepare(case: Row) -> None:
    """Make the bucket and its index, with the rows of all pairs that are read."""
    from rankclip_jax.benchmark.synthetic_bucket import SparseIndex, make_bucket

    write_tars(Path(case["folder"]), 64 * SHARDS, (48, 64))
    make_bucket(f"{case['folder']}/{0:05d}.tar")
    index = SparseIndex(case["folder"], PARTS, case["shards"], case["pairs"] // case["shards"])
    (held_out,), (kept,) = select([case["pairs"]], [np.zeros(0, np.int64)], case["val_pairs"], case["train_limit"])
    plan = Plan(len(kept), case["batch"], SEED)
    steps = (*range(4), *range(LATER, LATER + 4))
    index.fill(held_out.tolist())
    index.fill(kept[plan.record(step, row)] for step, row in itertools.product(steps, range(case["batch"])))


def _loader(data: Dataset, case: Row, step: int = 0, process: int = 0, processes: int = 1) -> Loader:
    options = LoaderOptions(
        batch_size=case["batch"],
        seed=SEED,
        image_size=SIDE,
        augment=make_augment("random_resized_crop|flip", SIDE),
        keys=("images", "tokens", "index"),
        process_index=process,
        process_count=processes,
        num_threads=case["threads"],
        prefetch=1,
    )
    return Loader(data.train, TOKENIZERS["clip"]((), 0, CONTEXT_LENGTH), options, start_step=step)


def _resumes(data: Dataset, case: Row) -> bool:
    with _loader(data, case, step=LATER) as straight, _loader(data, case, step=LATER + 1) as resumed:
        next(straight)
        return _equal(next(straight), next(resumed))


def _same_batches(data: Dataset, case: Row, whole: dict[str, np.ndarray]) -> bool:
    """Whether the rows of all processes are the batch of one process."""
    parts = []
    for process in range(case["processes"]):
        with _loader(data, case, process=process, processes=case["processes"]) as loader:
            parts.append(next(loader))
    return _equal(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})


def _equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


BENCHMARK = Benchmark(
    "the first batches of billions of pairs",
    labels=("case", "seconds_to_open", "requests", "seconds_to_first", "peak_mib", "resumes", "same_batches"),
    about=("pairs", "shards", "val_pairs", "train_limit", "batch", "processes", "bad_records"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    rounds=1,
    warm_up=0,
)
