"""The run folder: the names of what is in it, and whether a run there has anything to lose."""

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
    """Make the run folder, and check now, not at the first save, that it can be written to.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to --workdir={workdir} ({reason}); mend that or choose another") from None


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether the run in `workdir` has saved a checkpoint."""
    checkpoints = os.path.join(workdir, CHECKPOINTS)
    return os.path.isdir(checkpoints) and any(name.isdigit() for name in os.listdir(checkpoints))


def has_progress(workdir: str | Path) -> bool:
    """Whether the run in `workdir` has a checkpoint or a line of metrics."""
    if has_checkpoint(workdir):
        return True
    metrics = os.path.join(workdir, METRICS)
    return os.path.exists(metrics) and os.path.getsize(metrics) > 0


def read_metrics(workdir: str) -> list[dict[str, float]]:
    """Return the lines of a run's ``metrics.jsonl`` in order, NaN and infinities as floats again.

    Lines that are no JSON object with a step (one cut short by a kill) are left out.
    """
    path = os.path.join(workdir, METRICS)
    if not os.path.exists(path):
        return []
    return [{name: float(v) if name != "step" else v for name, v in x.items()} for x in sound_lines(path)]


def sound_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics file that are JSON objects with a step."""
    with open(path, errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line
