"""The guard of a training run: what the run does now, requests to stop it, and what ends it when it is stuck.

SIGTERM (of a scheduler that takes the machine away) and SIGINT (Ctrl-C) ask a run to stop. In the training loop it
then saves a checkpoint after the current step. In every other phase nothing would be lost, and it ends at once. The
exit code is `peers.RESTART` in both cases: the same command continues the run.

Python calls signal handlers between two operations of its own, so not while XLA compiles or a collective waits. A
thread therefore reads the signals from a pipe, to which the interpreter's C handler writes.
"""

import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from rankclip_jax.parallel import peers, processes
from rankclip_jax.terminal.show import printable

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Phases of a run. `WATCHED` ones are short, or consist of short parts.
START, COMPILE, DATA, TRAIN, EVALUATE, CHECKPOINT, REPORT = PHASES = (
    "start-up",
    "compile",
    "wait for data",
    "train",
    "evaluate",
    "save a checkpoint",
    "write the report",
)
WATCHED = (DATA, TRAIN, CHECKPOINT)
STOP = "stop"  # key of the flags in a batch, and of their sum in the metrics
LOOK_SECONDS = 1  # between two looks at the time


class Mark(NamedTuple):
    """What a run does now."""

    phase: str
    step: int | None
    since: float  # time.monotonic()

    def __str__(self) -> str:
        at = "" if self.step is None else f", step {self.step:,}"
        return f"{self.phase}{at}, for {time.monotonic() - self.since:.0f} s"


class Guard:
    """Of one run. Outside `watching` it only keeps marks: `train` called as a function leaves signals to its caller."""

    def __init__(self, grace_seconds: float = 25.0, stuck_seconds: float = 0.0):
        """Make a guard.

        Args:
          grace_seconds: time from a request to stop until the training loop must have begun to save a checkpoint.
          stuck_seconds: time without progress in a phase of `WATCHED` after which the run ends; 0 for no limit.
        """
        self._grace, self._stuck = grace_seconds, stuck_seconds
        self._request = ""  # name of the signal
        self._deadline = float("inf")
        self.mark = Mark(START, None, time.monotonic())
        self.in_loop = False  # steps may have been done that no checkpoint has

    @property
    def request(self) -> str:
        """The name of the signal that asked this process to stop, or ""."""
        return self._request

    def enter(self, phase: str, step: int | None = None) -> None:
        """Note the phase that begins now, and its training step."""
        self.mark = Mark(phase, step, time.monotonic())

    def begin_saving(self, step: int) -> None:
        """Note that the checkpoint of a stop is being saved: from now on the run has all the time it gets."""
        self._deadline = float("inf")
        self.enter(CHECKPOINT, step)

    def flags(self) -> dict[str, np.ndarray]:
        """The part of a batch by which processes agree: int32 [devices of this process], 1 if it shall stop."""
        if not processes.is_multi_process():
            return {}
        devices = jax.local_device_count()
        return {STOP: np.full(devices, bool(self._request), np.int32)}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take over the signals, and run the thread. Only the main thread may enter this."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Python writes to the pipe only if there is a handler.
        handlers = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._serve, args=[read], name="guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(write)  # ends the thread
            thread.join()
            os.close(read)

    def _serve(self, pipe: int) -> None:
        while True:
            if select.select([pipe], [], [], LOOK_SECONDS)[0]:
                numbers = os.read(pipe, 64)
                if not numbers:
                    return
                for number in numbers:
                    if number in SIGNALS:
                        self._on_signal(signal.Signals(number))
            now = time.monotonic()
            if now > self._deadline:
                self._end(f"stopped by {self._request} without a checkpoint: {self.mark}")
            if self._stuck and self.mark.phase in WATCHED and now - self.mark.since > self._stuck:
                self._end_stuck()

    def _on_signal(self, found: signal.Signals) -> None:
        if self._request and found == signal.SIGINT:
            _say("stopped at once; the newest checkpoint is intact")
            peers.leave(128 + signal.SIGINT)
        if self._request:
            return
        self._request = found.name
        if not self.in_loop:
            self._end(f"stopped by {found.name} in phase {self.mark.phase}; nothing is lost")
        self._deadline = time.monotonic() + self._grace
        _say(f"{found.name}: saving a checkpoint after this step, then stopping; Ctrl-C stops at once")

    def _end_stuck(self) -> None:
        """End a run without progress: print what each process does, and where each thread of this one is."""
        here = f"no progress for {self._stuck:.0f} s: {self.mark}"
        _say("\n".join([here, *peers.doing(), "Threads of this process:"]))
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self._end(f"{here} (config.stuck_seconds={self._stuck:g})")

    def _end(self, message: str) -> None:
        message = f"{message}. Run the same command again to continue"
        _say(message)
        peers.announce(message, peers.RESTART)
        peers.leave(peers.RESTART)


def agreeing(train_step: Callable) -> Callable:
    """Return `train_step`, (state, batch) -> (state, metrics), for batches with and without `Guard.flags`.

    With flags, the metrics have their sum over all devices, "stop".
    """

    def step(state: dict, batch: dict) -> tuple[dict, dict]:
        rest = {name: array for name, array in batch.items() if name != STOP}
        state, metrics = train_step(state, rest)
        return state, metrics | ({STOP: batch[STOP].sum()} if STOP in batch else {})

    return step


class StopAgreement:
    """All processes stop after the same step: the step adds up their `Guard.flags`, and all read the same sum."""

    DELAY = 2  # steps after which a sum is read: it is computed then, and the loop does not wait for it

    def __init__(self, guard: Guard):
        self._guard, self._sums = guard, []

    def reached(self, total: Any | None) -> bool:
        """Return whether to stop now. `total` is the sum of this step's flags, or None with one process."""
        if total is None:
            return bool(self._guard.request)
        self._sums.append(total)
        return len(self._sums) > self.DELAY and int(self._sums.pop(0)) > 0


def _say(message: str) -> None:
    lines = "\n".join(printable(line) for line in message.split("\n"))
    print(f"\n{processes.process_label()}{lines}", file=sys.stderr, flush=True)
