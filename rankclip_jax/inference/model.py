"""A model in memory: what every format is read to, and written from."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer


class Model(NamedTuple):
    """Weights in memory, with all that is needed to use them.

    Attributes:
      config: `config.model`.
      params: {"towers", "scalars"}, numpy arrays.
      model_state: mutable collections of the towers, such as {"batch_stats"}; empty for most.
      tokenizer: of the text tower.
      step: training steps behind it; 0 for foreign weights, whose number is not known.
      origin: the path or hub id it was read from.
      format: of what it was read from, for people.
      notes: what the user should know about the way here, a line each.
    """

    config: ConfigDict
    params: dict[str, Any]
    model_state: dict[str, Any]
    tokenizer: Tokenizer
    step: int
    origin: str
    format: str
    notes: tuple[str, ...] = ()
