"""Skipped steps: a batch whose loss or gradient is not finite, or whose gradient explodes, changes no weight.

The train step decides on the devices, from its loss and the global norm of its gradient, and selects the old or the new
state element by element: in the kernels of the update, without a second copy of the state. What it decides by is a
part of the state, so a resumed run skips the same steps:

    skips  {"total"   int32, skipped steps of the run
            "in_row"  int32, skipped steps since the last one that was not
            "norms"   float32 [WINDOW], norms of the gradients of the last steps that were not skipped}

`SkippedSteps` follows the decisions in the training loop.
"""

import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.parallel import processes
from rankclip_jax.run_folder import SKIPPED
from rankclip_jax.terminal.show import warn

WINDOW = 100  # steps whose median is the usual norm of the gradient; the first steps of a run are never too large
DELAY = 2  # steps after which a decision is read: it is computed then, and the loop does not wait for it
KEPT_FILES = 20  # of the last skipped steps
CONTINUE = (  # what to do about a run that has diverged
    "Its earlier checkpoints are kept; to continue from one of them, add --resume_from=STEP (or latest) with a lower "
    "config.optimizer.learning_rate, or a longer warm-up"
)

Counters = dict[str, jax.Array]


def initial_counters() -> Counters:
    """`skips` of a new run."""
    return {"total": jnp.int32(0), "in_row": jnp.int32(0), "norms": jnp.zeros(WINDOW, jnp.float32)}


def judge(
    skips: Counters, step: jax.Array, loss: jax.Array, grad_norm: jax.Array, median_factor: float = 0.0
) -> tuple[jax.Array, Counters]:
    """Return (whether the step may change the state, the next counters).

    Args:
      skips: counters after `step` steps.
      step: number of steps done, skipped ones included.
      loss, grad_norm: scalars of this step. A gradient whose norm overflows counts as infinite.
      median_factor: a norm above this multiple of the median of `norms` is too large; 0 for no limit. The limit
        begins when `WINDOW` steps were not skipped.
    """
    sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    accepted = step - skips["total"]
    if median_factor:
        limit = median_factor * jnp.median(skips["norms"])
        sound &= (accepted < WINDOW) | (grad_norm <= limit)
    norms = skips["norms"].at[accepted % WINDOW].set(grad_norm.astype(jnp.float32))
    skipped = (~sound).astype(jnp.int32)
    return sound, {
        "total": skips["total"] + skipped,
        "in_row": jnp.where(sound, 0, skips["in_row"] + 1),
        "norms": jnp.where(sound, norms, skips["norms"]),
    }


def select(sound: jax.Array, new: Any, old: Any) -> Any:
    """Return `new` if `sound`, a scalar, and `old` otherwise; both are trees of the same arrays."""
    return jax.tree.map(lambda after, before: jnp.where(sound, after, before), new, old)


def check_options(stop_after: int, median_factor: float) -> None:
    """Reject `config.skip` if it would stop every run, or skip ordinary steps."""
    if stop_after < 1:
        raise UserError(f"config.skip.stop_after={stop_after} must be at least 1.")
    if median_factor and not 1.0 < median_factor < math.inf:
        raise UserError(
            f"config.skip.median_factor={median_factor} must be 0 (no limit) or more than 1: half of all norms are "
            "above their median."
        )


class SkippedSteps:
    """Reports the skipped steps of a run, with the pairs of their batches, and stops a run that only skips."""

    def __init__(self, workdir: str, stop_after: int, records: Callable[[int], Sequence[tuple[int, str]]]):
        """Follow the steps of a run.

        Args:
          workdir: run folder; the main process writes ``skipped/STEP.json`` there.
          stop_after: number of skipped steps in a row after which the run stops.
          records: number of a step, counted from 1 -> (index, key) of each pair of its batch.
        """
        self._folder, self._stop_after, self._records = Path(workdir) / SKIPPED, stop_after, records
        self._pending: deque[tuple[int, Mapping[str, jax.Array]]] = deque()

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Take the metrics of a step, and look at those of `DELAY` steps earlier; errors as in `finish`."""
        self._pending.append((step, {name: metrics[name] for name in ("loss", "grad_norm", "skipped_in_row")}))
        self._look(DELAY)

    def finish(self) -> None:
        """Look at all steps.

        Raises:
          UserError: `stop_after` steps in a row were skipped.
        """
        self._look(0)

    def _look(self, left: int) -> None:
        while len(self._pending) > left:
            step, metrics = self._pending.popleft()
            in_row = int(metrics["skipped_in_row"])
            if in_row:
                self._report(step, in_row, float(metrics["loss"]), float(metrics["grad_norm"]))

    def _report(self, step: int, in_row: int, loss: float, grad_norm: float) -> None:
        if processes.is_main():
            self._write(step, loss, grad_norm)
        found = f"loss {loss:g}, gradient norm {grad_norm:g}"
        if in_row >= self._stop_after:
            raise UserError(
                f"{in_row} steps in a row were skipped, up to step {step} ({found}): the run has diverged. "
                f"The pairs of their batches are in {self._folder}. {CONTINUE}"
            )
        if processes.is_main():
            warn(f"step {step} is skipped ({found}); the pairs of its batch are in {self._folder / f'{step}.json'}")

    def _write(self, step: int, loss: float, grad_norm: float) -> None:
        self._folder.mkdir(exist_ok=True)
        pairs = [{"index": index, "key": key} for index, key in self._records(step)]
        # As text, because JSON has no NaN.
        content = {"step": step, "loss": f"{loss:g}", "grad_norm": f"{grad_norm:g}", "pairs": pairs}
        with replaced_file(self._folder / f"{step}.json") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        for old in sorted(_steps(self._folder))[: -max(KEPT_FILES, self._stop_after)]:
            os.remove(self._folder / f"{old}.json")


def _steps(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()] if folder.is_dir() else []
