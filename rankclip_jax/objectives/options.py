"""Numeric options of objectives, checked and converted to float."""

import math

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError


def positive(config: ConfigDict, option: str) -> float:
    """Return the option as a float; raise a UserError unless it is a finite number above 0."""
    if not 0 < config[option] < math.inf:
        raise UserError(f"objective.{option}={config[option]}: it must be a finite number above 0.")
    return float(config[option])


def at_least_zero(config: ConfigDict, option: str, maximum: float = math.inf) -> float:
    """Return the option as a float; raise a UserError unless it is a finite number from 0 to `maximum`."""
    if not (0 <= config[option] <= maximum and math.isfinite(config[option])):
        upper = f"to {maximum:g}" if math.isfinite(maximum) else "up"
        raise UserError(f"objective.{option}={config[option]}: it must be a finite number from 0 {upper}.")
    return float(config[option])


def check_block_rows(block_rows: int) -> None:
    """Raise a UserError if the option `block_rows` is negative."""
    if block_rows < 0:
        raise UserError(f"objective.block_rows={block_rows}: use a number of rows, or 0 to choose by memory.")
