"""The weights of a two-tower model as one value, shared by checkpoints and encoders."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Weights(NamedTuple):
    """The arrays that a model needs for evaluation.

    Attributes:
      params: {"towers", "scalars"}, nested dicts of arrays.
      model_state: mutable collections of the towers, such as {"batch_stats"}; empty for most models.
    """

    params: Mapping[str, Any]
    model_state: Mapping[str, Any]

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Weights":
        """The moving averages of a train state if it has them, otherwise its current weights."""
        chosen = state.get("ema") or state
        return cls(chosen["params"], chosen.get("model_state", {}))
