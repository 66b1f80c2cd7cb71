"""The run folder: names of its files, its metrics, and whether its run has progress."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankclip_jax.errors import UserError
from rankclip_jax.files.json_files import misfit, regular_size

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
SKIPPED = "skipped"  # batches of skipped steps
ABANDONED = "abandoned"  # branches of a run that went back to an earlier checkpoint
LONGEST_LINE = 1 << 20  # characters of a line of `metrics.jsonl`; a longer one is invalid
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # of `metrics.jsonl`: JSON has no such numbers


def make_workdir(workdir: str) -> None:
    """Make the run folder, and check now, not at the first save, that it is writable; errors as in `make_writable`."""
    if "://" in workdir:
        raise UserError(
            f"--workdir={workdir} is a URL, and a run folder must be a path that all processes share: mount the bucket"
        )
    make_writable(workdir, f"--workdir={workdir}", "fix that or choose another folder")


def make_writable(folder: str | Path, name: str, advice: str) -> None:
    """Make a folder, or check that an existing one is writable.

    Raises:
      UserError: the folder cannot be made or written to; the message has its `name` and ends with `advice`.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {name} ({error.strerror or error}): {advice}") from None


def checkpoint_steps(folder: str | Path) -> list[int]:
    """Return the steps in a folder of checkpoints, newest first; files and other names are no checkpoints."""
    try:
        names = [entry.name for entry in os.scandir(folder) if is_step(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(map(int, names), reverse=True)


def is_step(name: str) -> bool:
    """Return whether a name in a folder of checkpoints is that of a step."""
    return re.fullmatch(r"0|[1-9][0-9]{0,17}", name) is not None


def has_checkpoint(workdir: str | Path) -> bool:
    """Return whether the run in `workdir` has saved a checkpoint."""
    return bool(checkpoint_steps(os.path.join(workdir, CHECKPOINTS)))


def has_progress(workdir: str | Path) -> bool:
    """Return whether the run in `workdir` has a checkpoint or a line of metrics."""
    if has_checkpoint(workdir):
        return True
    metrics = os.path.join(workdir, METRICS)
    return os.path.isfile(metrics) and os.path.getsize(metrics) > 0


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """Return the lines of a run's ``metrics.jsonl`` in order, with NaN and infinities as floats.

    Invalid lines are skipped, such as a last line cut short by a kill.

    Raises:
      UserError: the file cannot be read.
    """
    lines = valid_lines(os.path.join(workdir, METRICS))
    return [{name: float(v) if name != "step" else v for name, v in line.items()} for line in lines]


def valid_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yield the valid lines of a metrics file: JSON objects with a step and numbers. No file has no lines.

    Raises:
      UserError: the file cannot be read.
    """
    advice = "restore it, or move it away"
    try:
        regular_size(path, advice)
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE), "")
            yield from filter(None, map(_valid_line, lines))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {advice}") from None


def _valid_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if misfit(line, {"step": 0}) or not 0 <= line["step"] < 2**53:
        return None
    numbers = (isinstance(value, float) or value in NOT_FINITE or not misfit(value, 0.0) for value in line.values())
    return line if all(numbers) else None
