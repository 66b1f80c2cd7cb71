"""Training batches from tars, beside the webdataset library with PyTorch's DataLoader.

    python -m rankclip_jax.benchmark data --workers=2 [--tars='cc3m/{00000..00003}.tar'] [--json=FILE]

Three cases, each decoding by Pillow with open_clip's crop of 90 to 100 % of the area and the same tokenizer: ours,
webdataset giving uint8 as ours does (like for like), and webdataset as open_clip uses it, giving float32 that is
normalised on the host. Each runs in processes of its own and all are stopped but the one whose turn it is, so
that none works ahead in another's time. The ratio is the median over the rounds of pairs/s of ours over theirs.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from rankclip_jax.benchmark.noise_tars import read_sides, write_tars
from rankclip_jax.benchmark.rows_file import check_rows_file, write_rows
from rankclip_jax.benchmark.worker import Worker
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.text_table import text_table

# loader and what it gives, by the name of the case
CASES = {
    "rankclip_jax": ("rankclip_jax", "uint8"),
    "webdataset uint8": ("webdataset", "uint8"),
    "webdataset float32": ("webdataset", "float32"),
}
LOADERS = ("rankclip_jax", "webdataset")


def define_flags() -> None:
    """Define this benchmark's flags."""
    flags.DEFINE_string("tars", "", "tars to read, a folder, glob or range; without, some are made of noise")
    flags.DEFINE_string("pixels", "256-384", "sides of the images that are made, lowest and highest")
    flags.DEFINE_integer("pairs", 2000, "pairs that are made", lower_bound=8)
    flags.DEFINE_list("loaders", list(LOADERS), "rankclip_jax, webdataset (needs the extra webdataset)")
    flags.DEFINE_integer("workers", 2, "threads of ours, processes of webdataset", lower_bound=1)
    flags.DEFINE_integer("batch", 64, "pairs of a batch", lower_bound=1)
    flags.DEFINE_integer("batches", 10, "batches of a turn", lower_bound=1)
    flags.DEFINE_integer("image_size", 224, "side of the images in a batch", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "turns of each case", lower_bound=1)
    flags.DEFINE_string("json", None, "file to write the rows to")


def main(argv: list[str]) -> None:
    """Measure, print a table, write the rows."""
    chosen = flags.FLAGS
    if argv[2:]:
        raise UserError(f"unexpected argument {argv[2]!r}: the data benchmark takes flags only, see --help.")
    check_rows_file(chosen.json)
    for loader in chosen.loaders:
        lookup(dict.fromkeys(LOADERS), loader, "loader")
    sides = read_sides(chosen.pixels)
    with tempfile.TemporaryDirectory() as folder:
        location = chosen.tars or write_tars(Path(folder), chosen.pairs, sides)
        rows = measure(_cases(chosen, location), chosen.rounds)
    write_rows(chosen.json, rows)
    print(describe(rows))


def _cases(chosen, location: str) -> list[dict]:
    size = sum(locations.size(file) for file in locations.expand(location, "", (".tar",)))
    shared = {name: chosen[name].value for name in ("workers", "batch", "batches", "image_size")}
    return [
        {"case": case, "loader": loader, "dtype": dtype, "tars": location, "bytes": size, **shared}
        for case, (loader, dtype) in CASES.items()
        if loader in chosen.loaders
    ]


def measure(cases: Sequence[dict], rounds: int) -> list[dict]:
    """Rows of the cases: so many turns each, all others stopped meanwhile.

    Raises:
      UserError: a worker cannot start; its last line says why.
    """
    workers = []
    try:
        for case in cases:
            workers.append(Worker("data_worker", case))
            told = workers[-1].ask("describe")  # its first batch is made then
            workers[-1].pause()
            case |= told
        turns = tqdm(range(rounds + 1), desc="data", unit="round", leave=False, disable=None)
        seconds = [[_turn(worker) for worker in workers] for _ in turns]
    finally:
        for worker in workers:
            worker.close()
    columns = [list(column) for column in zip(*seconds[1:], strict=True)]  # the first round fills what works ahead
    return [_row(case, own, columns[0]) for case, own in zip(cases, columns, strict=True)]


def _turn(worker: Worker) -> float:
    with worker.awake():
        return worker.ask("time")["seconds"]


def _row(case: dict, seconds: list[float], first: list[float]) -> dict:
    middle, ratios = statistics.median(seconds), [theirs / ours for theirs, ours in zip(seconds, first, strict=True)]
    return {
        "benchmark": "data",
        **case,
        "seconds": middle,
        "seconds_all": seconds,
        "pairs_per_second": case["batch"] * case["batches"] / middle,
        "first_over_this": statistics.median(ratios),
    }


def describe(rows: Sequence[dict]) -> str:
    """The table, and what the ratios mean."""
    lines = [("loader", "pairs/s", "min", "max", f"{rows[0]['case']} is")]
    for row in rows:
        pairs = row["batch"] * row["batches"]
        rates = [row["pairs_per_second"], pairs / max(row["seconds_all"]), pairs / min(row["seconds_all"])]
        lines.append((row["case"], *(f"{rate:,.0f}" for rate in rates), f"{row['first_over_this']:.2f} x"))
    first = rows[0]
    what = f"{first['bytes'] / first['pairs'] / 1000:.0f} kB a pair, batches of {first['batch']}"
    head = (
        f"{first['pairs']:,} pairs of {what}, {first['workers']} workers: medians of {len(first['seconds_all'])} turns"
    )
    return f"{head}\n{text_table(lines)}"
