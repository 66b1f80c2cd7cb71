"""Constant weights of terms: read from the options of an objective, and shown as an equation."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError


def read_weights(config: ConfigDict, options: Mapping[str, str]) -> dict[str, float]:
    """The weights that are not 0, by term; `options` is {term: name of the option with its weight}.

    Raises:
      UserError: a weight is negative or not finite.
    """
    for option in options.values():
        if not (config[option] >= 0 and math.isfinite(config[option])):
            raise UserError(
                f"objective.{option}={config[option]}: a weight must be finite and at least 0; 0 drops the term."
            )
    return {term: float(config[option]) for term, option in options.items() if config[option] > 0}


def fixed(weights: Mapping[str, float]) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """`Objective.weights` for weights that do not change over training."""
    return lambda step: {term: jnp.float32(weight) for term, weight in weights.items()}


def weighted_sum(weights: Mapping[str, float]) -> str:
    """The equation, such as 'L = CLIP + 0.25 cyclip_cross', with the terms' names in the metrics."""
    names = {term: "CLIP" if term == "clip" else term for term in weights}
    return "L = " + " + ".join(names[t] if w == 1 else f"{w:g} {names[t]}" for t, w in weights.items())
