"""What goes wrong while a run is on its way: one line, exit code 2, and what was saved stays."""

import json
import re
import shutil

import numpy as np
import pytest

import rankclip_jax
from tests.checkpoints.test_manager import biggest_file, flip
from tests.support import processes, runs

FLAGS = ("--config.duration=20", "--config.checkpoint.every=5", "--config.eval.every=0")
pytestmark = pytest.mark.xdist_group("trouble")


@pytest.fixture
def workdir(short_run, tmp_path):
    """A run that stopped after step 17: its last checkpoint and what followed are missing."""
    folder = shutil.copytree(short_run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "20")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 17))
    return folder


def error_line(result: tuple[int, str, str]) -> str:
    """The one line for the user; progress, and what XLA or the compile cache say, is not about that."""
    code, _, err = result
    assert code == 2 and "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_a_run_of_another_config(capsys, workdir):
    before = contents(workdir)
    line = error_line(
        runs.train_here(capsys, workdir, *FLAGS, "--config.optimizer.learning_rate=0.5", "--config.seed=3")
    )
    assert re.search(r"holds a run of another config: optimizer\.learning_rate [\d.e-]+ -> 0\.5; seed 0 -> 3\.", line)
    assert "Use another --workdir, or the old values to continue that run" in line
    assert contents(workdir) == before


LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # a real failure of a real write, without root
runpy.run_module("rankclip_jax.train", run_name="__main__", alter_sys=True)
"""


def test_no_room_for_a_checkpoint(workdir):
    complete = runs.checkpoint_steps(workdir)
    command = ("--config=configs/emoji.py:mu", f"--workdir={workdir}", *runs.SMALL, *FLAGS)
    line = error_line(processes.finish(processes.start(LIMITED, 200_000, *command), 120))
    assert line.startswith("error: no room to save in ") and "earlier checkpoints are intact: free some" in line
    assert runs.checkpoint_steps(workdir) == complete
    code, out, err = runs.train(workdir, *FLAGS)  # some space was freed
    assert code == 0 and f"resumed from step {complete[-1]}" in out, err
    assert [line["step"] for line in runs.history(workdir) if "train/loss" in line] == list(range(1, 21))


def test_every_checkpoint_is_damaged(capsys, workdir):
    for step in runs.checkpoint_steps(workdir):
        flip(biggest_file(workdir / "checkpoints" / str(step) / "state"))
    before = contents(workdir / "checkpoints")
    line = error_line(runs.train_here(capsys, workdir, *FLAGS))
    assert "no intact checkpoint in " in line and "move the folder away to start over" in line
    assert contents(workdir / "checkpoints") == before


def test_a_run_that_diverges(tmp_path):
    # The decay multiplies the weights by -999 in each step, until they overflow. Nobody looks at the log.
    flags = ("--config.optimizer.learning_rate=1e4", "--config.optimizer.warmup=1", "--config.log.every=0")
    flags += (*FLAGS, "--config.checkpoint.every=1", "--config.checkpoint.best_metric=", "--config.checkpoint.keep=2")
    line = error_line(runs.train(tmp_path, *flags))
    assert re.match(r"error: 10 steps in a row were skipped, up to step (\d+) \(loss (nan|inf), gradient norm", line)
    assert (
        f"The pairs of their batches are in {tmp_path}/skipped. Its earlier checkpoints are kept; to continue" in line
    )
    assert len(list((tmp_path / "skipped").iterdir())) == 10
    assert len(runs.checkpoint_steps(tmp_path)) == 2
    for step in runs.checkpoint_steps(tmp_path):
        assert all(np.isfinite(array).all() for array in runs.arrays(tmp_path, step).values())
    assert np.isfinite(rankclip_jax.load(tmp_path).temperature_scale)
