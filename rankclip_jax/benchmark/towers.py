"""A whole train step of the towers with CLIP's loss, beside the same model of transformers in PyTorch.

    python -m rankclip_jax.benchmark towers --models=ViT-B/32 --batch=16 --frameworks=jax,torch [--json=FILE]

Images and tokens are random and on the device. Each case runs in a process of its own, and those of one
model take turns, A B A B ..., so that whatever else the machine does slows all of them alike. A turn is two steps,
of which the second is timed: steps of training follow each other, but an idle process has its free memory taken
away and would pay for that in the first. The ratio is the median over the rounds of images/s over PyTorch's in the
same round.
"""

import statistics
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from rankclip_jax.benchmark.flops import train_flops
from rankclip_jax.benchmark.rows_file import check_rows_file, write_rows
from rankclip_jax.benchmark.worker import Worker
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models.presets import PRESETS, get_preset
from rankclip_jax.text_table import text_table

FRAMEWORKS = ("jax", "torch")
WARM_UP = 2  # steps of each case before the first that counts


def define_flags() -> None:
    """Define this benchmark's flags."""
    flags.DEFINE_list("models", ["ViT-B/32"], "presets, by name")
    flags.DEFINE_integer("batch", 16, "pairs of a step", lower_bound=1)
    flags.DEFINE_list("frameworks", ["jax"], "jax, torch (needs the extra torch)")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "what the towers compute in")
    flags.DEFINE_bool("torch_compile", False, "compile the PyTorch model")
    flags.DEFINE_float("peak_tflops", 0.0, "of the device, in this dtype; for the share of it that is used (MFU)")
    flags.DEFINE_integer("rounds", 5, "timed steps of each case", lower_bound=1)
    flags.DEFINE_string("json", None, "file to write the rows to")


def main(argv: list[str]) -> None:
    """Measure, print a table, write the rows."""
    chosen = flags.FLAGS
    if argv[2:]:
        raise UserError(f"unexpected argument {argv[2]!r}: the towers benchmark takes flags only, see --help.")
    check_rows_file(chosen.json)
    for framework in chosen.frameworks:
        lookup(dict.fromkeys(FRAMEWORKS), framework, "framework")
    for model in chosen.models:
        lookup(PRESETS, model, "model preset")
        _check_torch_has(model, chosen.frameworks)
    rows = []
    for model in chosen.models:
        rows += measure(_cases(chosen, model), chosen.rounds)
        write_rows(chosen.json, rows)  # what is measured is kept if a larger model fails
    print(describe(rows, chosen.peak_tflops))


def _check_torch_has(name: str, frameworks: Sequence[str]) -> None:
    image = get_preset(name).image
    if "torch" in frameworks and (image.tower != "vit" or image.pool != "class"):
        raise UserError(f"--models: {name} is not a model of transformers' CLIPModel: leave torch out of --frameworks.")


def _cases(chosen, model: str) -> list[dict]:
    shared = {"batch": chosen.batch, "dtype": chosen.dtype}
    compiled = {"jax": True, "torch": chosen.torch_compile}
    return [{"model": model, "framework": f, "compiled": compiled[f], **shared} for f in chosen.frameworks]


def measure(cases: Sequence[dict], rounds: int) -> list[dict]:
    """Rows of the cases of one model: `rounds` timed train steps each, in turns.

    Raises:
      UserError: a worker cannot start; its last line says why.
    """
    workers = []
    try:
        for case in cases:  # one after the other: compiling together would slow both
            workers.append(Worker("towers_worker", case))
        first = [worker.ask("describe") for worker in workers]
        for worker in workers * WARM_UP:
            worker.ask("time")
        turns = tqdm(range(rounds), desc=cases[0]["model"], unit="round", leave=False, disable=None)
        seconds = [[_turn(worker) for worker in workers] for _ in turns]
        columns = [list(column) for column in zip(*seconds, strict=True)]
        return [
            _row(case, told, own, _torch_seconds(cases, columns))
            for case, told, own in zip(cases, first, columns, strict=True)
        ]
    finally:
        for worker in workers:
            worker.close()


def _turn(worker: Worker) -> float:
    worker.ask("time")
    return worker.ask("time")["seconds"]


def _torch_seconds(cases: Sequence[dict], columns: Sequence[list[float]]) -> list[float] | None:
    found = [column for case, column in zip(cases, columns, strict=True) if case["framework"] == "torch"]
    return found[0] if found else None


def _row(case: dict, told: dict, seconds: list[float], torch_seconds: list[float] | None) -> dict:
    middle = statistics.median(seconds)
    ratios = [theirs / own for theirs, own in zip(torch_seconds or (), seconds, strict=False)]
    return {
        "benchmark": "towers",
        **case,
        **told,
        "seconds": middle,
        "seconds_all": seconds,
        "images_per_second": case["batch"] / middle,
        "over_torch": statistics.median(ratios) if ratios else None,
        "train_flops": case["batch"] * train_flops(get_preset(case["model"])),
    }


def describe(rows: Sequence[dict], peak_tflops: float = 0.0) -> str:
    """The table; TFLOP/s are the model's own operations, three times those of a forward pass, over the time."""
    lines = [("model", "framework", "images/s", "ms a step", "x torch", "compile s", "TFLOP/s", "MFU")]
    for row in rows:
        speed = row["train_flops"] / row["seconds"] / 1e12
        lines.append(
            (
                row["model"],
                row["framework"],
                f"{row['images_per_second']:.1f}",
                f"{1000 * row['seconds']:.0f}",
                f"{row['over_torch']:.2f}" if row["over_torch"] else "",
                f"{row['compile_seconds']:.1f}" if row["compile_seconds"] is not None else "",
                f"{speed:.3g}" if speed else "",
                f"{speed / peak_tflops:.1%}" if speed and peak_tflops else "",
            )
        )
    first = rows[0]
    what = f"train step, batch {first['batch']}, {first['dtype']}, {first['device']}"
    head = f"{what}: medians of {len(first['seconds_all'])} rounds"
    return f"{head}\n{text_table(lines)}"
