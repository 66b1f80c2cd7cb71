"""`python -m rankclip_jax.benchmark data`: turns, what a row says, the tars it makes, what is refused."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.benchmark import data, noise_tars, webdataset_reference
from rankclip_jax.benchmark.worker import Worker
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import open_pairs
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from tests.benchmark.test_step import PROGRAM
from tests.support import processes


def test_rows_of_a_real_run(tmp_path):
    file = tmp_path / "rows.json"
    given = ("--loaders=rankclip_jax", "--pairs=40", "--batch=8", "--batches=2", "--rounds=2", "--pixels=32-40")
    code, out, err = processes.run(PROGRAM, "data", *given, "--image_size=24", f"--json={file}", seconds=120)
    assert code == 0, err
    (row,) = json.loads(file.read_text())
    assert row | {"benchmark": "data", "case": "rankclip_jax", "pairs": 40, "batch": 8, "workers": 2} == row
    assert len(row["seconds_all"]) == 2 and row["first_over_this"] == 1
    assert row["pairs_per_second"] == pytest.approx(16 / row["seconds"])
    assert out.startswith("40 pairs of ") and f"{row['pairs_per_second']:,.0f}" in out


@pytest.fixture
def turns(monkeypatch):
    """Workers that compute nothing; what is asked of whom, and who is awake then."""
    asked = []

    class Scripted:
        def __init__(self, module, case):
            self.name, self.seconds = case["case"], iter(case["script"])

        def ask(self, question):
            asked.append((self.name, question))
            return {"seconds": next(self.seconds)} if question == "time" else {"pairs": 7}

        def pause(self):
            asked.append((self.name, "pause"))

        def awake(self):
            return self

        def __enter__(self):
            asked.append((self.name, "awake"))

        def __exit__(self, *_):
            self.pause()

        def close(self):
            asked.append((self.name, "close"))

    monkeypatch.setattr(data, "Worker", Scripted)
    return asked


def case(name, script):
    return {"case": name, "script": script, "batch": 10, "batches": 3, "workers": 2, "bytes": 700}


def test_cases_take_turns_and_the_others_sleep(turns):
    rows = data.measure([case("a", [9.0, 1.0, 2.0, 4.0]), case("b", [9.0, 2.0, 2.0, 5.0])], rounds=3)
    told = [(name, what) for name in "ab" for what in ("describe", "pause")]
    turn = [(name, what) for name in "ab" for what in ("awake", "time", "pause")]
    assert turns == told + turn * 4 + [("a", "close"), ("b", "close")]
    assert [row["seconds"] for row in rows] == [2.0, 2.0] and rows[0]["pairs_per_second"] == 15
    # Of 2, 1 and 1.25 in the rounds; that of the medians would be 1.
    assert rows[1]["first_over_this"] == 1.25
    lines = data.describe(rows).splitlines()
    assert lines[0] == "7 pairs of 0 kB a pair, batches of 10, 2 workers: medians of 3 turns"
    assert lines[1].split() == ["loader", "pairs/s", "min", "max", "a", "is"]
    assert lines[3].split() == ["b", "15", "6", "15", "1.25", "x"]


def test_a_paused_worker_and_its_children_stand_still(tmp_path, monkeypatch):
    """A worker that counts, and a child of it that does so too."""
    code = """
import os, sys, time
print("{}", flush=True)
file = sys.argv[1] + ("/child" if os.fork() == 0 else "/parent")
for number in range(10 ** 6):
    open(file, "w").write(str(number))
    time.sleep(0.001)
"""
    popen, command = subprocess.Popen, [sys.executable, "-c", code, str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", lambda _, **options: popen(command, **options))
        worker = Worker("any", {})

    def times():
        return [(tmp_path / name).stat().st_mtime_ns for name in ("child", "parent")]

    def settles(moving):
        """Both move, or neither does, before long: signals and files take their time on a busy machine."""
        for _ in range(100):
            before = times()
            time.sleep(0.1)
            if [old != new for old, new in zip(before, times(), strict=True)] == [moving, moving]:
                return True
        return False

    try:
        while not (tmp_path / "child").exists() or not (tmp_path / "parent").exists():
            time.sleep(0.01)
        assert settles(True)
        worker.pause()
        assert settles(False)
        with worker.awake():
            assert settles(True)
        assert settles(False)
    finally:
        worker.close()
    assert settles(False)


def test_tars_of_noise(tmp_path):
    location = noise_tars.write_tars(tmp_path, 41, (64, 96))
    pairs = open_pairs(locations.expand(location), PairOptions())
    assert len(pairs) == 41 and len({pairs.key(i) for i in range(41)}) == 41
    sizes = np.array([Image.open(io.BytesIO(pairs.image_bytes(i))).size for i in range(41)])
    assert sizes.min() >= 64 and sizes.max() <= 96 and len(np.unique(sizes)) > 10
    again = tmp_path / "again"
    again.mkdir()
    noise_tars.write_tars(again, 41, (64, 96))
    assert all((again / name).read_bytes() == (tmp_path / name).read_bytes() for name in os.listdir(again))


@pytest.mark.parametrize("text", ["", "256x256", "384-256", "4-5", "-256"])
def test_sides_that_are_none(text):
    with pytest.raises(UserError, match="write the lowest and the highest side, such as 256-384"):
        noise_tars.read_sides(text)


def test_the_opponent_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[webdataset\]', or use --loaders=rankclip_jax"):
        webdataset_reference.import_both()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loaders=ours",), "unknown loader 'ours'"),
        (("--tars=/none/*.tar",), "no file at /none/*.tar"),
        (("--pixels=9-8",), "--pixels=9-8: write the lowest"),
        (("more",), "unexpected argument 'more'"),
        (("--json=/none/x.json",), "no writable folder"),
    ],
)
def test_mistakes(arguments, message):
    code, out, err = processes.run(PROGRAM, "data", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
