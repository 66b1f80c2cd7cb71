"""Requests to stop, and runs without progress: in a process of its own, which receives real signals."""

import os
import signal
import threading
import time

import pytest

from rankclip_jax.parallel import peers
from rankclip_jax.training.guard import COMPILE, Guard, StopAgreement
from tests.support import processes

LOOP = """
import sys, time
from rankclip_jax import cli
from rankclip_jax.errors import Stopped
from rankclip_jax.training import guard as g
phase, where, grace, stuck, file = sys.argv[1:]
grace, stuck = float(grace), float(stuck)
def main(argv):
    guard = g.Guard(grace, stuck)
    with guard.watching():
        guard.enter(phase, 7)
        guard.in_loop = where == "loop"
        open(file, "w").close()
        while not guard.request or grace < 1:
            sum(range(10**5))
        guard.begin_saving(7)
        time.sleep(grace + 2)
        raise Stopped("stopped at step 7")
cli.run(main, positional=True)
"""


def run(tmp_path, phase, where="", grace=1.0, stuck=0.0, signals=(), seconds=20):
    """(exit code, stderr, seconds) of a process in `phase` that gets `signals`."""
    started = tmp_path / "started"
    process = processes.start(LOOP, phase, where, grace, stuck, started)
    try:
        while not started.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        began = time.monotonic()
        for number in signals:
            os.kill(process.pid, number)
            time.sleep(0.3)
        code, _, err = processes.finish(process, seconds)
        return code, err, time.monotonic() - began
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_the_loop_a_run_ends_at_once(tmp_path, number):
    code, err, seconds = run(tmp_path, COMPILE, signals=[number])
    assert code == peers.RESTART == 75 and seconds < 5
    assert f"stopped by {number.name} in phase compile; nothing is lost. Run the same command again" in err


def test_in_the_loop_it_may_save_for_longer_than_the_grace_period(tmp_path):
    code, err, seconds = run(tmp_path, "train", "loop", signals=[signal.SIGTERM])
    assert code == 75 and seconds > 2
    assert "SIGTERM: saving a checkpoint after this step" in err and "stopped at step 7" in err


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not(tmp_path):
    code, err, _ = run(tmp_path, "train", "loop", 5, signals=[signal.SIGINT, signal.SIGTERM, signal.SIGINT])
    assert code == 130 and "stopped at once; the newest checkpoint is intact" in err


def test_a_step_longer_than_the_grace_period_is_not_waited_for(tmp_path):
    code, err, seconds = run(tmp_path, "train", "loop", 0.5, signals=[signal.SIGTERM])
    assert code == 75 and seconds < 6
    assert "stopped by SIGTERM without a checkpoint: train, step 7, for" in err


def test_a_run_without_progress_ends_and_shows_where_it_is(tmp_path):
    code, err, _ = run(tmp_path, "wait for data", "loop", 1.0, 1.0)
    assert code == 75
    assert "no progress for 1 s: wait for data, step 7, for" in err and "in main" in err  # the stack
    assert "config.stuck_seconds=1" in err


def test_a_long_compilation_is_no_lack_of_progress(tmp_path):
    with pytest.raises(AssertionError, match="still running"):
        run(tmp_path, COMPILE, "", 1.0, 0.5, seconds=3)


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    with Guard().watching():
        assert threading.active_count() == threads + 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == threads and signal.set_wakeup_fd(-1) == -1


def test_processes_stop_after_the_same_step():
    """A process asks after its step 3: the sum of step 4 shows it, and each reads it two steps later."""
    guard = Guard()
    agreement = StopAgreement(guard)
    sums = [0, 0, 0, 2, 2, 2, 2]
    assert [agreement.reached(total) for total in sums] == [False] * 5 + [True, True]


def test_a_single_process_stops_after_the_step():
    guard = Guard()
    agreement = StopAgreement(guard)
    assert guard.flags() == {} and not agreement.reached(None)
    guard._request = "SIGTERM"
    assert agreement.reached(None)
