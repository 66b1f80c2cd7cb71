"""Runs any benchmark: measures its cases and prints one table.

The cases of a group take turns, A B A B ..., and the other cases are stopped meanwhile. Other load on the machine then
slows all cases alike: the median of the ratios within a round varies less than the ratio of two separate measurements.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Callable, Sequence

from absl import flags
from tqdm import tqdm

from rankclip_jax.benchmark.case import Benchmark, Row
from rankclip_jax.benchmark.worker import InProcess, Worker
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes
from rankclip_jax.terminal.tables import text_table


def define_flags(benchmark: Benchmark) -> None:
    """Define the flags of the benchmark and those that all benchmarks share."""
    benchmark.define_flags()
    timed = "timed turns of each case" + ("; 0: time the first turn" if benchmark.min_rounds == 0 else "")
    flags.DEFINE_integer("rounds", benchmark.rounds, timed, lower_bound=benchmark.min_rounds)
    flags.DEFINE_string("json", None, "file for the rows, as a JSON list")


def make_main(name: str, benchmark: Benchmark) -> Callable[[list[str]], None]:
    """Return the main function: measure, write the rows, print the table."""

    def main(argv: list[str]) -> None:
        chosen, rows = flags.FLAGS, []
        if argv[2:]:
            raise UserError(f"unexpected argument {argv[2]!r}: the {name} benchmark takes flags only, see --help.")
        check_rows_file(chosen.json)
        for cases in benchmark.groups(chosen):
            rows += measure(name, benchmark, cases, chosen.rounds)
            if processes.is_main():
                write_rows(chosen.json, rows)  # now, because a later group may fail
        if processes.is_main():
            print(describe(benchmark, rows))

    return main


def measure(name: str, benchmark: Benchmark, cases: Sequence[Row], rounds: int) -> list[Row]:
    """Measure the cases of one group; return one row for each.

    A row holds the columns of the case; "rounds"; "seconds", the median time of the timed runs; "ratio", the median of
    these times divided by the base's time in the same round; "_min" and "_max" of both; "seconds_all"; and "base", the
    name of the base. "peak_bytes" is the peak of host memory in the first turn, minus the memory before. Unknown values
    are None.

    Raises:
      UserError: a case cannot be built or fails.
    """
    run = all(case.get("run", True) for case in cases)
    with contextlib.ExitStack() as stack:
        hosts = []
        for case in _progress(cases, "building"):  # one at a time: parallel compilations slow each other
            host = InProcess(benchmark.build, case) if benchmark.in_process else Worker(name, case)
            hosts.append(stack.enter_context(contextlib.closing(host)))
        warm_up = [_round(benchmark, hosts) for _ in range(benchmark.warm_up if run else 0)]
        timed = [_round(benchmark, hosts) for _ in _progress(range(rounds if run else 0), "timing")]
    turns = [list(column) for column in zip(*(timed or warm_up), strict=True)] or [[] for _ in hosts]
    rows = []
    for i, host in enumerate(hosts):
        base = next((k for k, other in enumerate(hosts) if benchmark.is_base(host.columns, other.columns)), None)
        row = {"benchmark": name, **host.columns, **_times(turns[i], [] if base is None else turns[base])}
        row["base"] = None if base is None else hosts[base].columns[benchmark.labels[0]]
        if benchmark.memory and run:
            row["peak_bytes"] = warm_up[0][i]["peak_bytes"]
        rows.append(row | {key: function(row) if run else None for key, function in benchmark.derived.items()})
    return rows


def _round(benchmark: Benchmark, hosts: Sequence[Worker | InProcess]) -> list[Row]:
    return [host.turn(benchmark.runs) for host in hosts]


def _times(turns: Sequence[Row], base_turns: Sequence[Row]) -> Row:
    seconds = [turn["seconds"] for turn in turns]
    ratios = [own / turn["seconds"] for own, turn in zip(seconds, base_turns, strict=False)]
    return {"rounds": len(seconds), **_spread("seconds", seconds), **_spread("ratio", ratios), "seconds_all": seconds}


def _spread(name: str, values: Sequence[float]) -> Row:
    functions = {name: statistics.median, f"{name}_min": min, f"{name}_max": max}
    return {key: function(values) if values else None for key, function in functions.items()}


def _progress(items: Sequence, what: str) -> tqdm:
    return tqdm(items, desc=what, leave=False, disable=None if processes.is_main() else True)  # None: terminals only


def describe(benchmark: Benchmark, rows: Sequence[Row]) -> str:
    """Return one line about the measurement, and the table of the rows."""
    base = next((row["base"] for row in rows if row["base"]), "base")
    columns = [(key.replace("_", " "), key, 1) for key in (*benchmark.labels, *benchmark.derived)]
    columns += [("ms", "seconds", 1e3), ("min", "seconds_min", 1e3), ("max", "seconds_max", 1e3)]
    columns += [(f"time / {base}", "ratio", 1), ("min", "ratio_min", 1), ("max", "ratio_max", 1)]
    columns += [("peak MiB", "peak_bytes", 2**-20)] if benchmark.memory else []
    lines = [[cell(row[key], factor) for _, key, factor in columns] for row in rows]
    about = ", ".join(f"{key.replace('_', ' ')} {rows[0][key]}" for key in benchmark.about)
    rounds = max(row["rounds"] for row in rows)
    heading = f"{benchmark.title}: {about}; medians of {rounds} rounds, and of the ratios within a round"
    return f"{heading}\n{text_table([[heading for heading, _, _ in columns], *lines])}"


def cell(value: str | float | None, factor: float) -> str:
    """Return the text of a value in a table: four digits; empty for None."""
    if value is None or isinstance(value, str):
        return value or ""
    value = factor * value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def check_rows_file(path: str | None) -> None:
    """Raise a UserError if the file of ``--json`` cannot be written, before anything is measured."""
    folder = os.path.dirname(path) or "." if path else "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--json={path}: no writable folder {folder!r}; make it, or write elsewhere.")


def write_rows(path: str | None, rows: Sequence[Row]) -> None:
    """Write the rows as a JSON list, if there is a path."""
    if path:
        with open(path, "w") as file:
            json.dump(list(rows), file, indent=2)
            file.write("\n")
