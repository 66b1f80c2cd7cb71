"""Writes metrics to `metrics.jsonl`, by default also to TensorBoard, and on request to Weights & Biases.

Each write appends one line of JSON: ``{"step": 100, "time": 1754000000.0, "loss": 3.2}``. JSON has no NaN and no
infinities, so they are the strings "NaN", "Infinity" and "-Infinity", which Python's ``float()`` and JavaScript's
``Number()`` parse.
"""

import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.files.json_files import read_text
from rankclip_jax.training.metrics_log import MetricsLog
from rankclip_jax.training.tensorboard import TensorBoardFile


class MetricsWriter:
    """Writes scalars by step; only process 0 writes."""

    def __init__(
        self,
        workdir: str,
        *,
        tensorboard: bool = True,
        wandb: bool | str = False,
        process_index: int = 0,
        config: Mapping[str, Any] | None = None,
    ):
        """Store the options. Files are opened at the first write, after a possible `restart`.

        Args:
          workdir: run folder, made if missing.
          tensorboard: also write events to ``workdir/tensorboard``.
          wandb: True, or the name of a Weights & Biases project, to send metrics there too.
          process_index: in all processes but 0, every method does nothing.
          config: shown with the run in Weights & Biases.

        Raises:
          UserError: wandb is requested but not installed.
        """
        self._active = process_index == 0
        self._workdir, self._config = workdir, config
        self._want_tensorboard, self._want_wandb = tensorboard, wandb
        self._log = MetricsLog(workdir)
        self._is_open = False
        self._tensorboard = self._wandb = None
        self._purge_step: int | None = None
        if self._active and wandb:
            self._wandb_module = _import_wandb()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line for `step` and flush it: a kill loses at most the line that is being written.

        Args:
          step: number of training steps done.
          values: name to number; TensorBoard groups names by the part before a slash (``loss/clip``). For arrays of
            one element, `write` waits until they are computed and copied to the host.
        """
        if not self._active:
            return
        if not self._is_open:
            self._open()
        numbers = {name: value if type(value) is int else float(value) for name, value in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: _encode(number) for name, number in numbers.items()}
        self._log.append(json.dumps(line, allow_nan=False))
        if self._tensorboard is not None:
            self._tensorboard.write(int(step), numbers)
        if self._wandb is not None:
            self._wandb.log(numbers, step=int(step))

    def restart(self, step: int, packed: str | None = None) -> None:
        """Begin with the lines up to `step`, see `MetricsLog.restart`; call it before the first write."""
        if self._active:
            self.close()
            self._purge_step = step + 1
            self._log.restart(step, packed)

    def packed(self) -> str:
        """Return the copy of all lines for a checkpoint; "" in all processes but 0."""
        return self._log.packed() if self._active else ""

    def close(self) -> None:
        """Flush and close all files; a later write opens them again."""
        self._log.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None
        self._is_open = False

    def _open(self) -> None:
        os.makedirs(self._workdir, exist_ok=True)
        self._is_open = True
        if self._want_tensorboard:
            self._tensorboard = TensorBoardFile(self._workdir, self._purge_step)
        if self._want_wandb:
            self._wandb = self._open_wandb()

    def _open_wandb(self) -> Any:
        """Start a Weights & Biases run, or continue the one that this run folder started."""
        path = os.path.join(self._workdir, "wandb_id.txt")
        if not os.path.exists(path):
            with replaced_file(path) as file:
                file.write(uuid.uuid4().hex[:8])
        run_id = read_text(path, "remove it").strip()
        project = self._want_wandb if isinstance(self._want_wandb, str) else "rankclip_jax"
        config = dict(self._config or {})
        return self._wandb_module.init(project=project, id=run_id, resume="allow", dir=self._workdir, config=config)


def _encode(number: float | int) -> float | int | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"wandb is not installed: {install_hint('wandb')}, or set config.log.wandb=False") from error
    return wandb
