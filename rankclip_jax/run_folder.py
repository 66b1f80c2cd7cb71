"""The run folder: names of its files, its metrics, and whether its run has progress."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankclip_jax.errors import UserError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"


def make_workdir(workdir: str) -> None:
    """Make the run folder, and check now, not at the first save, that it is writable.

    Raises:
      UserError: the folder cannot be made or is not writable.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to --workdir={workdir} ({reason}): fix that or choose another folder") from None


def has_checkpoint(workdir: str | Path) -> bool:
    """Return whether the run in `workdir` has saved a checkpoint."""
    checkpoints = os.path.join(workdir, CHECKPOINTS)
    return os.path.isdir(checkpoints) and any(name.isdigit() for name in os.listdir(checkpoints))


def has_progress(workdir: str | Path) -> bool:
    """Return whether the run in `workdir` has a checkpoint or a line of metrics."""
    if has_checkpoint(workdir):
        return True
    metrics = os.path.join(workdir, METRICS)
    return os.path.exists(metrics) and os.path.getsize(metrics) > 0


def read_metrics(workdir: str) -> list[dict[str, float]]:
    """Return the lines of a run's ``metrics.jsonl`` in order, with NaN and infinities as floats.

    Invalid lines are skipped, such as a last line cut short by a kill.
    """
    path = os.path.join(workdir, METRICS)
    if not os.path.exists(path):
        return []
    return [{name: float(v) if name != "step" else v for name, v in x.items()} for x in valid_lines(path)]


def valid_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yield the valid lines of a metrics file: JSON objects with a step."""
    with open(path, errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line
