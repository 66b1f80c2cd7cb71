"""Run a case in a separate process or in this process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from rankclip_jax.benchmark.case import Case, Row
from rankclip_jax.benchmark.timed_run import timed_run
from rankclip_jax.errors import UserError


class Worker:
    """A case in a separate process, which is stopped except during its turns.

    The process runs `serve`: it writes the columns of the case as one line of JSON. Then it reads lines, and for each
    line runs the case and writes the measurements.
    """

    def __init__(self, benchmark: str, case: Row):
        """Build the case, then stop its process.

        Raises:
          UserError: the case cannot be built; the message holds the last line of the worker's stderr.
        """
        self._case = case
        # A file, because a full pipe without reader blocks the worker.
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (open as long as the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rankclip_jax.benchmark.serve", benchmark, json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # signals then also reach the worker's child processes
        )
        try:
            self.columns = self._read()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def turn(self, runs: int) -> dict[str, float]:
        """Run the case `runs` times; return the measurements of the last run."""
        with self.awake():
            for _ in range(runs):
                self._process.stdin.write("run\n")
                self._process.stdin.flush()
                measured = self._read()
        return measured

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let the stopped processes continue for a while."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """Kill the worker and its processes."""
        self._signal(signal.SIGKILL)
        self._process.communicate()
        self._stderr.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._stderr.seek(0)
        errors = self._stderr.read().strip().splitlines() or ["killed, perhaps for lack of memory"]
        raise UserError(f"the case {' '.join(map(str, self._case.values()))} failed: {errors[-1][:500]}")


class InProcess:
    """A case in this process, with the methods of `Worker`."""

    def __init__(self, build: Callable[[Row], Case], case: Row):
        self._case = build(case)
        self.columns = self._case.columns

    def turn(self, runs: int) -> dict[str, float]:
        return [timed_run(self._case.run) for _ in range(runs)][-1]

    def close(self) -> None:
        """Nothing to release."""
