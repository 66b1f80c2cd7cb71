"""The weights of a two-tower model: one value from the checkpoint to the encoder."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Weights(NamedTuple):
    """What a model is evaluated with.

    Attributes:
      params: {"towers", "scalars"}, nested dicts of arrays.
      model_state: mutable collections of the towers, such as {"batch_stats"}; empty for most models.
    """

    params: Mapping[str, Any]
    model_state: Mapping[str, Any]

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Weights":
        """The moving averages of a training state if it has them, otherwise its current weights."""
        chosen = state.get("ema") or state
        return cls(chosen["params"], chosen.get("model_state", {}))
