"""A model in memory: every reader returns it, every writer takes it."""

from typing import NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import Tokenizer


class Model(NamedTuple):
    """The weights of a model, with config and tokenizer.

    Attributes:
      config: `config.model`.
      weights: numpy arrays.
      step: number of training steps; 0 for foreign weights, whose number of steps is unknown.
      origin, format: the path or hub id that the model was read from, and the name of its format, for messages.
      notes: what was changed while the model was read, one line each.
    """

    config: ConfigDict
    weights: Weights
    tokenizer: Tokenizer
    step: int
    origin: str
    format: str
    notes: tuple[str, ...] = ()
