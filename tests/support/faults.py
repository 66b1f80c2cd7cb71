"""Runs that are disturbed at a random moment, and started again by the same command until they end.

Each trial is a function of its number: how many processes there are, the fault, its moment and its victim.
"""

import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.checkpoints.test_manager import biggest_file, flip
from tests.support import processes, runs

RESTARTS = 4
STOP_SECONDS, LOST_SECONDS = (
    10,
    15,
)  # until a run that is asked to stop has ended; until the others of a killed one have


class Trial(NamedTuple):
    """A disturbance: `share` is its moment, as a share of the time of an undisturbed run."""

    count: int
    fault: str
    share: float
    victim: int


class Outcome(NamedTuple):
    """What happened: exit codes of each start, seconds from the fault to the end of the first, and what was printed."""

    codes: list[list[int]]
    seconds: float
    outputs: list[str]


def trial_of(number: int) -> Trial:
    rng = random.Random(number)
    count = 1 + number % 2
    return Trial(count, list(FAULTS)[number // 2 % len(FAULTS)], rng.random(), rng.randrange(count))


def start(workdir: Path, flags: Sequence[str], count: int) -> list:
    environments: list[Mapping | None] = processes.environments(count) if count > 1 else [None]
    return [runs.start(workdir, *flags, env=env) for env in environments]


def finish(together: Sequence, seconds: float = 180) -> tuple[list[int], str]:
    """(exit codes, everything printed); no process is left behind."""
    results = processes.finish_all(together, seconds)
    return [code for code, _, _ in results], "\n".join(text for _, out, err in results for text in (out, err))


def disturb(trial: Trial, workdir: Path, flags: Sequence[str], whole_seconds: float) -> Outcome:
    """Run, disturb, and restart until the run has ended; every start must end with exit code 0 or by the fault."""
    together, began = start(workdir, flags, trial.count), time.monotonic()
    while time.monotonic() - began < trial.share * whole_seconds and together[trial.victim].poll() is None:
        time.sleep(0.01)
    if together[trial.victim].poll() is None:  # or it has ended before this moment
        FAULTS[trial.fault](together[trial.victim], workdir)
    at = time.monotonic()
    codes, output = finish(together)
    outcome = Outcome([codes], time.monotonic() - at, [output])
    while any(outcome.codes[-1]) and len(outcome.codes) <= RESTARTS:
        codes, output = finish(start(workdir, flags, trial.count))
        outcome.codes.append(codes)
        outcome.outputs.append(output)
    return outcome


def resumed_steps(outcome: Outcome) -> list[int]:
    """The step from which each start after the first one resumed."""
    found = [re.search(r"resumed from step ([\d,]+)", text) for text in outcome.outputs[1:]]
    return [int(match[1].replace(",", "")) if match else 0 for match in found]


def _send(number: int) -> Callable:
    return lambda process, workdir: os.kill(process.pid, number)


def _pause(process, workdir: Path) -> None:
    """Three seconds without reaction: shorter than the time after which a process counts as lost."""
    _send(signal.SIGSTOP)(process, workdir)
    time.sleep(3)
    _send(signal.SIGCONT)(process, workdir)


def _kill_and_damage(process, workdir: Path) -> None:
    """A kill, and a flipped byte in the newest checkpoint."""
    _send(signal.SIGKILL)(process, workdir)
    steps = runs.checkpoint_steps(workdir) if (workdir / "checkpoints").is_dir() else []
    if len(steps) > 1:  # with one damaged checkpoint only, the run says so and stops
        flip(biggest_file(workdir / "checkpoints" / str(steps[-1])))


def _kill_and_cut(process, workdir: Path) -> None:
    """A kill, and a log whose last block storage has lost."""
    _send(signal.SIGKILL)(process, workdir)
    log = workdir / "metrics.jsonl"
    if log.is_file():
        content = log.read_bytes()
        log.write_bytes(content[:-200] + b"\0" * min(200, len(content)))


FAULTS: dict[str, Callable] = {
    "kill": _send(signal.SIGKILL),
    "terminate": _send(signal.SIGTERM),
    "interrupt": _send(signal.SIGINT),
    "pause": _pause,
    "kill and damage": _kill_and_damage,
    "kill and cut the log": _kill_and_cut,
}
