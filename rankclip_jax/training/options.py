"""The options of a train step as one value."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepOptions:
    """How a train step computes its gradients and its next state.

    Attributes:
      block_rows: rows of one block of the objective; 0 chooses by memory (`objectives.rows.block_size`).
      micro_batches: number of GradCache micro-batches; 1 for the whole batch at once.
      seed: seed of the towers' random numbers (patch dropout).
      frozen: tree of bools like the parameters, from `optimizer.frozen_mask`; None if all are trained.
      ema_decay: decay of the moving average of the weights; 0 for no average.
      skip_median_factor: see `skipping.judge`; 0 skips only steps that are not finite.
    """

    block_rows: int = 0
    micro_batches: int = 1
    seed: int = 0
    frozen: Any = None
    ema_decay: float = 0.0
    skip_median_factor: float = 0.0

    @property
    def frozen_towers(self) -> Any:
        """The part of `frozen` for the towers."""
        return None if self.frozen is None else self.frozen["towers"]


DEFAULT = StepOptions()
