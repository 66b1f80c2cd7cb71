"""The lock of a folder: one holder at a time, released by any end of it."""

import os
import signal
import threading

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.files import lock
from tests.support import processes

HOLD = """
import sys, time
from rankclip_jax.files import lock
with lock.held(sys.argv[1], "go away"):
    open(sys.argv[1] + "/held", "w").close()
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path):
    with lock.held(tmp_path, "use another"):
        message = rf"{tmp_path} is in use by process {os.getpid()} on .+: use another"
        with pytest.raises(UserError, match=message), lock.held(tmp_path, "use another"):
            pass
        assert lock.owner(tmp_path).startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_it_is_released_by_an_exception(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path, ""):
        raise ZeroDivisionError
    with lock.held(tmp_path, ""):
        pass


def test_it_is_released_by_a_kill(tmp_path):
    process = processes.start(HOLD, tmp_path)
    try:
        while not (tmp_path / "held").exists():
            assert process.poll() is None, process.communicate()
        with pytest.raises(UserError, match=f"process {process.pid} on"), lock.held(tmp_path, ""):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(20)
        with lock.held(tmp_path, ""):
            assert lock.owner(tmp_path).startswith(f"process {os.getpid()} on ")
    finally:
        process.kill()


def test_holders_that_come_and_go_are_never_two(tmp_path):
    """The file is removed by one holder while another opens it."""
    inside, most = [], []

    def come_and_go():
        for _ in range(300):
            try:
                with lock.held(tmp_path, ""):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except UserError:
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) > 100 and max(most) == 1


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def unsupported(*args):
        raise OSError(lock.UNSUPPORTED[0], "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with lock.held(tmp_path, ""):
        pass
    assert "file system without locks (No locks available)" in capsys.readouterr().err
