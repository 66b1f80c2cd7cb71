"""Training batches from tars, compared with the webdataset library and PyTorch's DataLoader.

    python -m rankclip_jax.benchmark data --workers=2 [--tars='cc3m/{00000..00003}.tar'] [--json=FILE]

There are three cases: rankclip_jax; webdataset with uint8 images, like rankclip_jax; and webdataset as open_clip uses
it, with float32 images that are normalised on the host. Each decodes with Pillow, crops 90 to 100 % of the area as
open_clip does, and uses the same tokenizer. They take turns in separate processes. A process is stopped between its
turns: no case prefetches batches while another one is timed.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.benchmark.noise_tars import read_sides, write_tars
from rankclip_jax.benchmark.webdataset_reference import batches
from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import LoaderOptions
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import WebDataset, open_pairs
from rankclip_jax.data.storage import locations
from rankclip_jax.data.text.tokenizer import TOKENIZERS
from rankclip_jax.errors import lookup

# name of the case: (loader, dtype of its images)
CASES = {
    "rankclip_jax": ("rankclip_jax", "uint8"),
    "webdataset uint8": ("webdataset", "uint8"),
    "webdataset float32": ("webdataset", "float32"),
}
LOADERS = ("rankclip_jax", "webdataset")
AUGMENT = "random_resized_crop"  # open_clip's default
CONTEXT_LENGTH = 77


def define_flags() -> None:
    flags.DEFINE_string("tars", "", "tars to read: a folder, glob or range; default: tars of generated images")
    flags.DEFINE_string("pixels", "256-384", "sides of the generated images, lowest and highest")
    flags.DEFINE_integer("pairs", 2000, "number of generated pairs", lower_bound=8)
    flags.DEFINE_list("loaders", list(LOADERS), "rankclip_jax, webdataset (needs the extra webdataset)")
    flags.DEFINE_integer("workers", 2, "threads of rankclip_jax, processes of webdataset", lower_bound=1)
    flags.DEFINE_integer("batch", 64, "pairs in a batch", lower_bound=1)
    flags.DEFINE_integer("batches", 10, "batches in a turn", lower_bound=1)
    flags.DEFINE_integer("image_size", 224, "side of the images in a batch", lower_bound=1)


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    for loader in chosen.loaders:
        lookup(dict.fromkeys(LOADERS), loader, "loader")
    sides = read_sides(chosen.pixels)
    shared = {name: chosen[name].value for name in ("workers", "batch", "batches", "image_size")}
    with tempfile.TemporaryDirectory() as folder:
        tars = chosen.tars or write_tars(Path(folder), chosen.pairs, sides)
        shared |= {"tars": tars, "bytes": sum(locations.size(file) for file in _files(tars))}
        yield [
            {"case": name, "loader": loader, "dtype": dtype, **shared}
            for name, (loader, dtype) in CASES.items()
            if loader in chosen.loaders
        ]


def _files(tars: str) -> list[str]:
    return locations.expand(tars, "", (".tar",))


def build(case: Row) -> Case:
    """Open the tars and load the first batch; a run loads the batches of a turn."""
    pairs = open_pairs(_files(case["tars"]), PairOptions())
    start = time.perf_counter()
    stream = {"rankclip_jax": _rankclip_batches, "webdataset": _webdataset_batches}[case["loader"]](case, pairs)
    next(stream)
    facts = {"pairs": len(pairs), "seconds_to_first": time.perf_counter() - start}

    def run() -> None:
        for _ in range(case["batches"]):
            next(stream)

    return Case(run, case | facts)


def _rankclip_batches(case: Row, pairs: WebDataset) -> Iterator:
    options = LoaderOptions(
        batch_size=case["batch"],
        seed=0,
        image_size=case["image_size"],
        augment=make_augment(AUGMENT, case["image_size"]),
        num_threads=case["workers"],
        prefetch=4,
    )
    return Loader(DecodedRecords(pairs), TOKENIZERS["clip"]((), 0, CONTEXT_LENGTH), options)


def _webdataset_batches(case: Row, pairs: WebDataset) -> Iterator:
    options = {"dtype": case["dtype"], "batch": case["batch"], "size": case["image_size"], "workers": case["workers"]}
    return batches(_files(case["tars"]), tokenize=TOKENIZERS["clip"]((), 0, CONTEXT_LENGTH), **options)


def _rate(seconds: str) -> Callable[[Row], float]:
    return lambda row: row["batch"] * row["batches"] / row[seconds]


BENCHMARK = Benchmark(
    "batches",
    labels=("case",),
    about=("pairs", "batch", "batches", "workers", "image_size"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    derived={
        "kilobytes_per_pair": lambda row: row["bytes"] / row["pairs"] / 1000,
        "pairs_per_second": _rate("seconds"),
        "pairs_per_second_min": _rate("seconds_max"),
        "pairs_per_second_max": _rate("seconds_min"),
    },
)
