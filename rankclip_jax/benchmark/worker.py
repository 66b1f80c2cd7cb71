"""A case of a benchmark in a process of its own, so that its memory is its own: both ends of the pipe.

The worker reads questions, one a line, and answers each with a line of JSON.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rankclip_jax.errors import UserError

STATUS = Path("/proc/self/status")
Answers = Mapping[str, Callable[[], dict]]


class Worker:
    """A case in its own process; it computes only while it is asked, or while it is `awake` if it works ahead."""

    def __init__(self, module: str, case: dict):
        self.case = case
        command = [sys.executable, "-m", f"rankclip_jax.benchmark.{module}", json.dumps(case)]
        pipe = subprocess.PIPE
        # A session of its own, so that the processes that it starts are stopped and ended with it.
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self._read()

    def ask(self, question: str) -> dict:
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._read()

    def pause(self) -> None:
        """Stop it and its processes, as they are."""
        self._signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let a paused worker run for a while."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        errors = self._process.stderr.read().strip().splitlines() or ["killed, perhaps for want of memory"]
        what = " ".join(str(value) for value in self.case.values())
        raise UserError(f"the case {what} failed: {errors[-1]}")


def serve(answers_of: Callable[[dict], Answers]) -> None:
    """In the worker: build the case given on the command line, then answer until nobody asks."""
    answers = answers_of(json.loads(sys.argv[1]))
    _answer({"ready": True})
    for line in sys.stdin:
        _answer(answers[line.strip()]())


def _answer(values: dict) -> None:
    print(json.dumps(values), flush=True)


def timed_and_weighed(run: Callable[[], object]) -> Answers:
    """``time``: run once, {"seconds"}. ``peak``: so too, and {"bytes"}, resident memory above that before."""

    def timed() -> dict:
        began = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - began}

    def peak() -> dict:
        before = _reset_peak()
        return timed() | {"bytes": max(0, _peak() - before)}

    return {"time": timed, "peak": peak}


def _reset_peak() -> int:
    """Set the peak of resident memory to what is resident now, where the system can, and return that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
