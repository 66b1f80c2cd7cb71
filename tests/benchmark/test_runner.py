"""The runner of all benchmarks: turns, rows, tables; and the worker, which runs a case in a process of its own."""

import contextlib
import subprocess
import sys
import time

import pytest

from rankclip_jax.benchmark import data, objectives, runner, step, towers
from rankclip_jax.benchmark.case import Benchmark
from rankclip_jax.benchmark.worker import Worker
from rankclip_jax.errors import UserError


@pytest.fixture
def turns(monkeypatch):
    """Replace workers: they take the seconds of their script, a value for each run. Returns the list of calls."""
    calls = []

    class Scripted:
        def __init__(self, benchmark, case):
            self.columns, self._script = case, iter(case["script"])
            calls.append((case["case"], "build"))

        def turn(self, runs):
            calls.append((self.columns["case"], "turn"))
            return {"seconds": [next(self._script) for _ in range(runs)][-1], "peak_bytes": 7}

        def close(self):
            calls.append((self.columns["case"], "close"))

    monkeypatch.setattr(runner, "Worker", Scripted)
    return calls


def benchmark(**options):
    return Benchmark("test", ("case",), ("batch",), lambda: None, lambda chosen: [], lambda case: None, **options)


def case(name, *script, **columns):
    return {"case": name, "script": script, "batch": 4} | columns


def test_cases_take_turns(turns):
    cases = [case("a", 9.0, 2.0, 4.0, 3.0), case("b", 9.0, 3.0, 4.4, 3.0)]
    a, b = runner.measure("test", benchmark(), cases, rounds=3)
    assert turns == [
        *((name, "build") for name in "ab"),
        *((name, "turn") for _ in range(4) for name in "ab"),
        *((name, "close") for name in "ba"),
    ]
    assert (a["seconds"], a["seconds_min"], a["seconds_max"], a["seconds_all"]) == (3.0, 2.0, 4.0, [2.0, 4.0, 3.0])
    assert (a["ratio"], a["rounds"], a["base"]) == (1.0, 3, "a") and "peak_bytes" not in a
    # The ratios within the rounds are 1.5, 1.1 and 1; the ratio of the medians would be 1.
    assert b["seconds"] == 3.0
    assert (b["ratio"], b["ratio_min"], b["ratio_max"]) == pytest.approx((1.1, 1.0, 1.5))
    lines = runner.describe(benchmark(), [a, b]).splitlines()
    assert lines[0] == "test: batch 4; medians of 3 rounds, and of the ratios within a round"
    assert lines[1].split() == ["case", "ms", "min", "max", "time", "/", "a", "min", "max"]
    assert lines[3].split() == ["b", "3,000", "3,000", "4,400", "1.1", "1", "1.5"]


def test_the_last_run_of_a_turn_counts_and_derived_columns_follow(turns):
    double = benchmark(runs=2, warm_up=2, derived={"pairs_per_second": lambda row: row["batch"] / row["seconds"]})
    (row,) = runner.measure("test", double, [case("a", 9, 9, 9, 9, 7, 2.0)], rounds=1)
    assert row["seconds_all"] == [2.0] and row["pairs_per_second"] == 2.0
    assert runner.describe(double, [row]).splitlines()[1].split()[:5] == ["case", "pairs", "per", "second", "ms"]


def test_memory_is_that_of_the_first_turn_which_is_timed_without_rounds(turns):
    (row,) = runner.measure("test", benchmark(memory=True), [case("a", 9.0)], rounds=0)
    assert (row["seconds"], row["peak_bytes"]) == (9.0, 7)


def test_cases_that_do_not_run_are_only_built(turns):
    cases = [case("a", run=False), case("b", run=False, peak_bytes=2**20)]
    rows = runner.measure("test", benchmark(derived={"twice": lambda row: 2 * row["seconds"]}), cases, rounds=3)
    assert [what for _, what in turns] == ["build", "build", "close", "close"]
    assert rows[1]["peak_bytes"] == 2**20
    assert all(row[key] is None for row in rows for key in ("seconds", "ratio", "twice"))
    assert runner.describe(benchmark(), rows).splitlines()[2].split() == ["a"]


def test_workers_are_closed_if_one_cannot_be_built(turns):
    with pytest.raises(KeyError):
        runner.measure("test", benchmark(), [case("a"), {"case": "b"}], rounds=1)
    assert turns == [("a", "build"), ("a", "close")]


def is_base(kind, case, others):
    return [kind.BENCHMARK.is_base(case, other) for other in others]


def test_the_base_of_each_benchmark():
    """CLIP in the same framework; PyTorch; or the first case."""
    cases = [{"objective": name, "framework": f} for name, f in (("clip", "jax"), ("siglip", "jax"), ("clip", "torch"))]
    assert is_base(objectives, cases[1], cases) == [True, False, False]
    assert is_base(objectives, cases[2], cases) == [False, False, True]
    assert is_base(towers, cases[0], cases) == [False, False, True]
    assert is_base(step, cases[2], cases)[0] and is_base(data, cases[2], cases)[0]


@contextlib.contextmanager
def worker_of(monkeypatch, code, *arguments):
    """A worker whose process runs `code` instead of a case."""
    popen = subprocess.Popen
    command = [sys.executable, "-c", code, *arguments]
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", lambda _, **options: popen(command, **options))
        worker = Worker("any", {"case": "any"})
    try:
        yield worker
    finally:
        worker.close()


def test_a_stopped_worker_and_its_children_stand_still(tmp_path, monkeypatch):
    """A worker that counts, and a child process of it that counts too."""
    code = """
import os, sys, time
is_child = os.fork() == 0
file = sys.argv[1] + ("/child" if is_child else "/parent")
open(file, "w").write("-1")
while not os.path.exists(sys.argv[1] + "/child"):
    time.sleep(0.001)
if not is_child:
    print("{}", flush=True)  # the worker is stopped from here on: both processes exist
for number in range(10 ** 6):
    open(file, "w").write(str(number))
    time.sleep(0.001)
"""

    def times():
        return [(tmp_path / name).stat().st_mtime_ns for name in ("child", "parent")]

    def settles(moving):
        """Whether both move, or neither does, before long: signals and files take time on a busy machine."""
        for _ in range(100):
            before = times()
            time.sleep(0.1)
            if [old != new for old, new in zip(before, times(), strict=True)] == [moving, moving]:
                return True
        return False

    with worker_of(monkeypatch, code, str(tmp_path)) as worker:
        with worker.awake():
            assert settles(True)
        assert settles(False)
        with worker.awake():
            assert settles(True)
        assert settles(False)
    assert settles(False)


def test_a_worker_may_write_a_megabyte_of_warnings(monkeypatch):
    """A pipe holds 64 kB: a worker that writes more waits until somebody reads, and nobody reads yet."""
    code = """
import sys
for _ in range(1024):
    sys.stderr.write("w" * 1023 + "\\n")
print('{"pairs": 7}', flush=True)
for _ in sys.stdin:
    sys.stderr.write("w" * 2 ** 20)
    print('{"seconds": 1.5}', flush=True)
"""
    with worker_of(monkeypatch, code) as worker:
        assert worker.columns == {"pairs": 7}
        assert worker.turn(2) == {"seconds": 1.5}


def test_a_worker_that_fails_is_an_error_with_its_last_line(monkeypatch):
    code = "import sys; sys.stderr.write('w' * 2 ** 20 + '\\nout of memory\\n'); sys.exit(1)"
    with pytest.raises(UserError, match="the case any failed: out of memory"), worker_of(monkeypatch, code):
        pass
