"""Terms with fixed weights: read from the options of an objective, dropped at 0, and worded."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError


def read_weights(config, options: Mapping[str, str]) -> dict[str, float]:
    """Weight of each term whose option is not 0.

    Args:
      config: the options of the objective.
      options: {term: name of the option that holds its weight}.

    Raises:
      UserError: a weight is negative or not finite.
    """
    for option in options.values():
        if not (config[option] >= 0 and math.isfinite(config[option])):
            raise UserError(f"objective.{option}={config[option]}: a weight is a number from 0 up; 0 drops the term.")
    return {term: float(config[option]) for term, option in options.items() if config[option] > 0}


def fixed(weights: Mapping[str, float]) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """`Objective.weights` of weights that do not change over training."""
    return lambda step: {term: jnp.float32(weight) for term, weight in weights.items()}


def weighted_sum(weights: Mapping[str, float]) -> str:
    """'L = CLIP + 0.25 cyclip_cross': terms under the names that the metrics have."""
    names = {term: "CLIP" if term == "clip" else term for term in weights}
    return "L = " + " + ".join(names[t] if w == 1 else f"{w:g} {names[t]}" for t, w in weights.items())
