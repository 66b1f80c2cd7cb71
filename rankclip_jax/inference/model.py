"""A model in memory: every format is read into this value, and written from it."""

from typing import NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import Tokenizer


class Model(NamedTuple):
    """The weights of a model, with everything that is needed to use them.

    Attributes:
      config: `config.model`.
      weights: numpy arrays.
      tokenizer: the tokenizer of the text tower.
      step: number of training steps; 0 for foreign weights, whose number of steps is unknown.
      origin: the path or hub id that the model was read from.
      format: name of the format it was read from, for messages.
      notes: what the reader of the format changed or could not know, one line each.
    """

    config: ConfigDict
    weights: Weights
    tokenizer: Tokenizer
    step: int
    origin: str
    format: str
    notes: tuple[str, ...] = ()
