"""Numbers among the options of an objective, read with a check of their range."""

import math

from rankclip_jax.errors import UserError


def positive(config, option: str) -> float:
    """Return the option, a finite number above 0.

    Raises:
      UserError: it is anything else.
    """
    if not 0 < config[option] < math.inf:
        raise UserError(f"objective.{option}={config[option]}: it must be a finite number above 0.")
    return float(config[option])


def fraction(config, option: str) -> float:
    """Return the option, a number from 0 to 1.

    Raises:
      UserError: it is anything else.
    """
    if not 0 <= config[option] <= 1:
        raise UserError(f"objective.{option}={config[option]}: it is a share of the batch, from 0 to 1.")
    return float(config[option])
