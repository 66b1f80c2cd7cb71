"""Disturbed runs end with the bits of undisturbed ones, whatever the fault, its moment and the number of processes.

RANKCLIP_TRIALS=40 python -m pytest -m slow tests/faults -rP    runs 40 trials, and prints a line for each.
"""

import json
import os
import time

import pytest

from tests.support import faults, runs
from tests.support.pair_files import caption, write_csv, write_images
from tests.train.test_processes import SHORT

STEPS, INTERVAL = 12, 4
TRIALS = int(os.environ.get("RANKCLIP_TRIALS", "40"))
FLAGS = (*SHORT, f"--config.duration={STEPS}", f"--config.checkpoint.every={INTERVAL}", "--config.eval.every=6")
FLAGS += ("--config.checkpoint.best_metric=",)
pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder, [(name, caption(number)) for number, name in enumerate(write_images(folder))])
    return (*FLAGS, f"--config.data.root={folder}")


@pytest.fixture(scope="module")
def wholes(flags, tmp_path_factory):
    """A function that returns (folder, seconds) of the undisturbed run in N processes."""
    found = {}

    def whole(count):
        for _ in range(0 if count in found else 2):  # the second run finds the compiled programs of the first
            workdir, began = tmp_path_factory.mktemp("whole"), time.monotonic()
            codes, output = faults.finish(faults.start(workdir, flags, count))
            assert not any(codes), output
            found[count] = workdir, time.monotonic() - began
        return found[count]

    return whole


def check(number, flags, wholes, workdir):
    trial = faults.trial_of(number)
    whole, seconds = wholes(trial.count)
    outcome = faults.disturb(trial, workdir, flags, seconds)
    what = f"{trial.count} process(es), {trial.fault} at {trial.share:.2f}"
    print(f"{number}: {what}: {outcome.codes}, {outcome.seconds:.1f} s")
    text = "\n".join(outcome.outputs)
    assert not any(outcome.codes[-1]), text
    if trial.fault in ("terminate", "interrupt") and "saving a checkpoint after this step" in outcome.outputs[0]:
        assert set(outcome.codes[0]) == {75} and outcome.seconds < faults.STOP_SECONDS, text
        assert f"stopped at step {faults.resumed_steps(outcome)[0]}, which is saved" in text, text
    if trial.fault.startswith("kill") and any(outcome.codes[0]):
        assert outcome.seconds < faults.LOST_SECONDS, text
    assert_same(whole, workdir)


def assert_same(whole, workdir):
    expected, found = runs.arrays(whole, STEPS), runs.arrays(workdir, STEPS)
    assert [path for path in expected if expected[path].tobytes() != found[path].tobytes()] == []
    assert runs.history(workdir) == runs.history(whole)
    assert json.loads((workdir / "eval.json").read_text()) == json.loads((whole / "eval.json").read_text())
    assert (workdir / "report.html").is_file() and not (workdir / ".lock").exists()


@pytest.mark.parametrize("number", [8, 11])
def test_a_disturbed_run_ends_like_an_undisturbed_one(number, flags, wholes, tmp_path):
    """The short form of the test below."""
    check(number, flags, wholes, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(TRIALS))
def test_disturbed_runs_end_like_undisturbed_ones(number, flags, wholes, tmp_path):
    check(number, flags, wholes, tmp_path)
