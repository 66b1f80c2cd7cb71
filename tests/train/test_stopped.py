"""Runs that are asked to stop, on the command line: exit code 75, and after a restart the bits of the whole run."""

import os
import re
import signal
import time

import pytest

from tests.support import processes, runs
from tests.support.pair_files import caption, write_csv, write_images
from tests.train.test_processes import SHORT

STEPS = 12
FLAGS = (*SHORT, f"--config.duration={STEPS}", "--config.checkpoint.every=5", "--config.checkpoint.best_metric=")
pytestmark = pytest.mark.xdist_group("stopped")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder, [(name, caption(number)) for number, name in enumerate(write_images(folder))])
    return folder


def flags(data):
    return (*FLAGS, f"--config.data.root={data}")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    code, _, err = runs.train(workdir, *flags(data))
    assert code == 0, err
    return workdir


def signal_at(step, workdir, process, number):
    """Send a signal when `step` is logged; return the seconds until all `processes` have ended."""
    deadline = time.monotonic() + 120
    while runs.last_step(workdir) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)


def test_one_process_stops_and_continues_with_the_same_bits(whole, data, tmp_path):
    process = runs.start(tmp_path, *flags(data))
    signal_at(3, tmp_path, process, signal.SIGTERM)
    code, _, err = processes.finish(process, 30)
    assert code == 75 and "is saved. Run the same command again to continue" in err, err
    stopped = runs.checkpoint_steps(tmp_path)[-1]
    assert f"stopped at step {stopped}, which is saved" in err and 3 <= stopped < STEPS
    code, out, err = runs.train(tmp_path, *flags(data))
    assert code == 0 and f"resumed from step {stopped}" in out, err
    assert_same(whole, tmp_path)


def test_two_processes_stop_after_the_same_step_when_one_is_asked(data, tmp_path):
    """A second Ctrl-C is not needed, and the process that got no signal ends with the same exit code."""
    both = [runs.start(tmp_path, *flags(data), "--config.duration=2000", env=env) for env in processes.environments(2)]
    try:
        signal_at(2, tmp_path, both[0], 0)
        os.kill(both[1].pid, signal.SIGINT)
        results = [processes.finish(process, 30) for process in both]
    finally:
        for process in both:
            process.kill()
    stopped = runs.checkpoint_steps(tmp_path)[-1]
    for code, _, err in results:
        assert code == 75 and f"stopped at step {stopped:,}, which is saved" in err, results
    assert runs.last_step(tmp_path) == stopped


def test_a_killed_process_is_named_by_the_other(data, tmp_path):
    both = [runs.start(tmp_path, *flags(data), "--config.duration=2000", env=env) for env in processes.environments(2)]
    try:
        signal_at(2, tmp_path, both[1], signal.SIGKILL)
        began = time.monotonic()
        code, _, err = processes.finish(both[0], 30)
    finally:
        for process in both:
            process.kill()
    assert code == 75 and time.monotonic() - began < 15, err
    assert re.search(r"lost process 1 of 2 \(.+, step .+\): killed, out of memory, or its machine is gone", err)


def test_two_runs_in_one_folder(data, tmp_path):
    process = runs.start(tmp_path, *flags(data), "--config.duration=2000")
    try:
        signal_at(1, tmp_path, process, 0)
        code, _, err = runs.train(tmp_path, *flags(data), "--config.duration=2000")
        assert code == 2 and f"in use by process {process.pid}" in err and "use another --workdir" in err
        assert process.poll() is None
    finally:
        process.kill()


def test_processes_with_another_learning_rate_are_refused_by_its_key(data, tmp_path):
    first, second = processes.environments(2)
    both = [
        runs.start(tmp_path / "run", *flags(data), env=first),
        runs.start(tmp_path / "run", *flags(data), "--config.optimizer.learning_rate=1e-4", env=second),
    ]
    for code, _, err in processes.finish_all(both, 60):
        assert code == 2, err
        assert "process 1 has other config than process 0 (config.optimizer.learning_rate: 0.003 in process 0" in err
    assert not (tmp_path / "run").exists()


def assert_same(whole, workdir):
    expected, found = runs.arrays(whole, STEPS), runs.arrays(workdir, STEPS)
    assert [path for path in expected if expected[path].tobytes() != found[path].tobytes()] == []
    assert runs.history(workdir) == runs.history(whole)
