"""Objectives alone: loss and gradients of random embeddings, by batch size, beside the released arithmetic.

    python -m rankclip_jax.benchmark objectives [--batch=256,1024] [--objectives=clip,rankclip] [--json=FILE]

Every case runs in a process of its own. Those of one batch size take turns, A B A B ..., so that whatever else
the machine does slows all of them alike. `peak_bytes` is the same for both frameworks: the peak of resident
memory of the process while it computes once, less what was resident before. Above `--run_up_to` nothing is
run, and `peak_bytes` is what the compiled program asks for.
"""

import statistics
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from rankclip_jax.benchmark.rows_file import check_rows_file, write_rows
from rankclip_jax.benchmark.worker import Worker
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives import OBJECTIVES, objective_config
from rankclip_jax.text_table import text_table

ALL = tuple(name for name in OBJECTIVES if name != "rankclip_released")  # rankclip has both arithmetics
ARITHMETICS = ("exact", "released")
FRAMEWORKS = ("jax", "torch")
IN_TORCH = ("clip", "rankclip")
TORCH_UP_TO = 4096  # pairs; whole matrices and autograd need tens of GB beyond


def define_flags() -> None:
    """Define this benchmark's flags."""
    flags.DEFINE_list("batch", ["256", "1024", "4096"], "batch sizes")
    flags.DEFINE_list("objectives", [], "what to measure, by name; all of them unless named")
    flags.DEFINE_list("arithmetics", list(ARITHMETICS), "of rankclip: exact, released")
    flags.DEFINE_list("frameworks", ["jax"], "jax, torch (needs the extra torch)")
    flags.DEFINE_integer("dim", 512, "embedding size", lower_bound=1)
    flags.DEFINE_integer("devices", 1, "virtual CPU devices that jax splits the batch over", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "timed runs of each case; 0 for only the one that measures memory", lower_bound=0)
    flags.DEFINE_integer("run_up_to", 4096, "largest batch that is run, not only compiled", lower_bound=1)
    flags.DEFINE_string("json", None, "file to write the rows to")


def main(argv: list[str]) -> None:
    """Measure, print a table, write the rows."""
    chosen = flags.FLAGS
    if argv[2:]:
        raise UserError(f"unexpected argument {argv[2]!r}: the objectives benchmark takes flags only, see --help.")
    check_rows_file(chosen.json)
    rows = []
    for batch in _sizes(chosen.batch):
        rows += measure(_cases(chosen, batch), chosen.rounds, run=batch <= chosen.run_up_to)
        write_rows(chosen.json, rows)  # what is measured is kept if a larger size fails
    print(describe(rows))


def _sizes(texts: Sequence[str]) -> list[int]:
    wrong = [text for text in texts if not text.isdigit() or int(text) < 1]
    if wrong or not texts:
        raise UserError(f"--batch={','.join(texts)}: expected positive whole numbers, such as 256,1024.")
    return [int(text) for text in texts]


def _cases(chosen, batch: int) -> list[dict]:
    """Cases of one batch size, plain data for the worker."""
    shared = {"batch": batch, "dim": chosen.dim, "devices": chosen.devices}
    for arithmetic in chosen.arithmetics:
        lookup(dict.fromkeys(ARITHMETICS), arithmetic, "arithmetic")
    cases = []
    for framework in chosen.frameworks:
        lookup(dict.fromkeys(FRAMEWORKS), framework, "framework")
        for name in chosen.objectives or ALL:
            lookup(OBJECTIVES, name, "objective")
            if framework == "torch" and (name not in IN_TORCH or batch > TORCH_UP_TO):
                continue
            for arithmetic in _arithmetics(framework, name, chosen.arithmetics):
                cases.append({"objective": name, "arithmetic": arithmetic, "framework": framework, **shared})
    return cases


def _arithmetics(framework: str, name: str, chosen: Sequence[str]) -> Sequence[str]:
    own = objective_config(name).get("arithmetic", "")
    return chosen if framework == "jax" and own == "exact" else ("released",) if own else ("",)


def measure(cases: Sequence[dict], rounds: int, run: bool = True) -> list[dict]:
    """Rows of the cases: their peak memory first, then `rounds` timed runs in turns.

    Raises:
      UserError: a worker cannot start; its last line says why.
    """
    workers = [Worker("objectives_worker", case) for case in cases]
    try:
        if not run:
            return [
                _row(w.case, None, w.ask("analyse")["bytes"], "compiled")
                for w in workers
                if w.case["framework"] == "jax"
            ]
        first = [worker.ask("peak") for worker in workers]
        turns = tqdm(range(rounds), desc=f"batch {cases[0]['batch']}", unit="round", leave=False, disable=None)
        seconds = [[worker.ask("time")["seconds"] for worker in workers] for _ in turns]
        seconds = seconds or [[answer["seconds"] for answer in first]]
        columns = zip(*seconds, strict=True)
        return [_row(w.case, list(s), a["bytes"], "resident") for w, s, a in zip(workers, columns, first, strict=True)]
    finally:
        for worker in workers:
            worker.close()


def _row(case: dict, seconds: list[float] | None, peak_bytes: int, peak_of: str) -> dict:
    timing = {"seconds": statistics.median(seconds), "seconds_all": seconds} if seconds else {"seconds": None}
    return {**case, **timing, "peak_bytes": peak_bytes, "peak_of": peak_of}


def describe(rows: Sequence[dict]) -> str:
    """The table; ratios are to CLIP in the same framework and batch."""
    lines = [("objective", "framework", "batch", "ms", "x clip", "peak MiB")]
    clip = {(r["framework"], r["batch"]): r["seconds"] for r in rows if r["objective"] == "clip"}
    for row in rows:
        base = clip.get((row["framework"], row["batch"]))
        seconds = row["seconds"]
        lines.append(
            (
                " ".join(filter(None, (row["objective"], row["arithmetic"]))),
                row["framework"],
                f"{row['batch']:,}",
                f"{1000 * seconds:.1f}" if seconds else "not run",
                f"{seconds / base:.2f}" if seconds and base else "",
                f"{row['peak_bytes'] / 2**20:,.0f}",
            )
        )
    return f"loss and gradients, {rows[0]['dim']} dimensions: medians of turns\n{text_table(lines)}"
