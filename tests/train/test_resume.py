"""kill -9 anywhere, the same command again: the same bits, and a log without holes or doubles."""

import json
import random
import shutil

import numpy as np
import pytest

from tests.checkpoints.test_manager import biggest_file, flip
from tests.support import runs

STEPS = 40
FLAGS = (f"--config.duration={STEPS}", "--config.checkpoint.every=7", "--config.eval.every=10")
FLAGS += ("--config.log.diagnostics=True",)  # a resumed run logs them as the whole one does
pytestmark = pytest.mark.xdist_group("resume")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that is never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    code, _, err = runs.train(workdir, *FLAGS)
    assert code == 0, err
    return workdir


def assert_same_run(whole, workdir):
    """The same final state to the last bit, the same metrics, the same history."""
    expected, found = runs.arrays(whole, STEPS), runs.arrays(workdir, STEPS)
    assert expected.keys() == found.keys() and any("opt_state" in path for path in found)
    differing = [path for path in found if found[path].tobytes() != expected[path].tobytes()]
    assert not differing, differing
    assert runs.history(workdir) == runs.history(whole)
    assert json.loads((workdir / "eval.json").read_text()) == json.loads((whole / "eval.json").read_text())
    assert runs.checkpoint_steps(workdir)[-3:] == runs.checkpoint_steps(whole)[-3:]


def kill_at(step, workdir, *flags):
    """Start the run, or continue it, and kill it as soon as it has logged `step`."""
    runs.kill_when(runs.start(workdir, *FLAGS, *flags), lambda: runs.last_step(workdir) >= step)


def finish(workdir):
    """Run to the end; return what was printed."""
    code, out, err = runs.train(workdir, *FLAGS)
    assert code == 0, err
    return out, err


def test_the_log_of_a_whole_run(whole):
    lines = runs.history(whole)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))
    # The best checkpoint can be known only if each of them is evaluated.
    assert [line["step"] for line in lines if "val/image_to_text_R@1" in line] == [7, 10, 14, 20, 21, 28, 30, 35, 40]
    assert runs.checkpoint_steps(whole)[-3:] == [28, 35, 40]
    assert np.mean([line["train/clip"] for line in lines if "train/clip" in line][-5:]) < lines[0]["train/clip"]


def test_killed_with_the_newest_checkpoint_damaged(whole, tmp_path):
    kill_at(24, tmp_path)
    *_, older, newest = runs.checkpoint_steps(tmp_path)
    flip(biggest_file(tmp_path / "checkpoints" / str(newest) / "state"))
    out, err = finish(tmp_path)
    assert f"warning: checkpoint {newest} is damaged" in err and f"resumed from step {older}" in out
    assert (tmp_path / "checkpoints" / f"{newest}.damaged").is_dir()
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 6, 7, 17, 28, 39])
def test_killed_once(whole, tmp_path, step):
    kill_at(step, tmp_path)
    complete = runs.checkpoint_steps(tmp_path)
    out, _ = finish(tmp_path)
    assert (f"resumed from step {complete[-1]}" if complete else "new, seed 0") in out
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_five_times(whole, tmp_path, seed):
    for step in sorted(random.Random(seed).sample(range(1, STEPS), 5)):
        kill_at(step, tmp_path)
    finish(tmp_path)
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
def test_killed_before_there_is_anything_to_resume(whole, tmp_path):
    none_till_the_end = ("--config.checkpoint.every=0", "--config.checkpoint.keep=1")
    for exists in ((tmp_path / "config.json").exists, (tmp_path / "tokenizer").exists):
        runs.kill_when(runs.start(tmp_path, *FLAGS, *none_till_the_end), exists)
        assert runs.checkpoint_steps(tmp_path) == []
    for step in (1, 20, STEPS - 1):
        kill_at(step, tmp_path, *none_till_the_end)
        assert runs.checkpoint_steps(tmp_path) == []
    out, _ = finish(tmp_path)
    assert "new, seed 0" in out
    assert_same_run(whole, tmp_path)


def test_a_finished_run_is_only_evaluated_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for lost in ("eval.json", "report.html", "embeddings.npz"):
        (tmp_path / lost).unlink()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    changed = ("--config.eval.metrics=('retrieval', 'geometry')", "--config.data.prefetch=1")  # reach no weight
    code, out, err = runs.train(tmp_path, *FLAGS, *changed)
    assert code == 0, err
    assert "finished: nothing to train, only evaluated again" in out and "step " not in err
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert (tmp_path / "report.html").exists() and (tmp_path / "embeddings.npz").exists()
    metrics = json.loads((tmp_path / "eval.json").read_text())["metrics"]
    before = json.loads((whole / "eval.json").read_text())["metrics"]
    assert "val/alignment" in metrics and metrics.items() >= before.items()
