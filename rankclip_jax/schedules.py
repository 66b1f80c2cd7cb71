"""Durations, and schedules of learning rates and of loss weights.

A duration is one string: ``"1000 steps"`` (or ``"1000"``), ``"3 epochs"``, ``"2e6 examples"``, ``"5%"``.
A schedule is a pure function of the step, as in optax: step (an int or an int32 scalar) -> float32 scalar or float.
"""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rankclip_jax.errors import UserError, did_you_mean

Schedule = Callable[[jax.Array | int], jax.Array]

UNITS = ("steps", "epochs", "examples", "%")
_SPEC = re.compile(r"\s*([0-9][0-9_.]*(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", re.IGNORECASE)


def to_steps(
    spec: str | int,
    *,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    name: str = "duration",
) -> int:
    """Return a duration in steps.

    A duration above zero is at least one step. Examples are rounded up to whole batches; epochs and percentages are
    rounded to the nearest step.

    Args:
      spec: a number and a unit; the default unit is steps.
      total_steps: the base of percentages; None if it is not known yet.
      steps_per_epoch: number of full batches in one pass over the training data.
      batch_size: global batch, in examples.
      name: the config key, for error messages.

    Raises:
      UserError: `spec` is no duration, has an unknown unit, or a unit whose base is None or 0.
    """
    value, unit = _read(str(spec), name)
    if value == 0:
        return 0
    if unit == "steps":
        if value != int(value):
            raise UserError(f"{name}={spec!r}: steps must be a whole number")
        return int(value)
    base = {"%": total_steps, "epochs": steps_per_epoch, "examples": batch_size}[unit]
    if not base:
        possible = ["steps"] + ["epochs"] * bool(steps_per_epoch) + ["%"] * bool(total_steps)
        raise UserError(f"{name}={spec!r} cannot be given in {unit} here; use {' or '.join(possible)}")
    if unit == "examples":
        return math.ceil(value / base)
    return max(1, round(value * base / 100 if unit == "%" else value * base))


def _read(spec: str, name: str) -> tuple[float, str]:
    """Split '2e6 examples' into value and unit."""
    match = _SPEC.fullmatch(spec)
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name}={spec!r} is not a duration; write 1000 steps, 3 epochs, 2e6 examples or 5%")
    word = match[2].lower() or "steps"
    unit = {"percent": "%", "step": "steps", "epoch": "epochs", "example": "examples"}.get(word, word)
    if unit not in UNITS:
        hint = did_you_mean(word, UNITS)
        raise UserError(f"{name}={spec!r}: unknown unit {word!r}.{hint} Known: {', '.join(UNITS)}.")
    return value, unit


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up, then a half cosine down to zero.

        lr(k) = peak (k + 1) / W                                  k < W
        lr(k) = peak 0.5 (1 + cos(pi (k - W) / (T - W)))          W <= k <= T, and 0 after

    with W = `warmup_steps`, T = `total_steps`, and the step k counted from 0: the schedule of open_clip, CyCLIP and
    RankCLIP. Optax's warm-up starts at k / W instead.

    The released CyCLIP and RankCLIP code counts epochs from 1 in this formula, which skips the first epoch of the
    schedule: on CC3M with a batch of 256 it has no warm-up at all. That is not reproduced here.
    """

    def learning_rate(step: jax.Array | int) -> jax.Array:
        k = jnp.asarray(step, jnp.float32)
        done = jnp.clip((k - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return peak * jnp.where(k < warmup_steps, (k + 1.0) / max(warmup_steps, 1), cosine)

    return learning_rate


def warmup_constant(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up as in `warmup_cosine`, then `peak` for ever; `total_steps` is unused."""
    del total_steps
    return lambda step: peak * jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1.0) / max(warmup_steps, 1))


# Learning rates: (peak, warm-up steps, total steps) -> schedule.
SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {"cosine": warmup_cosine, "constant": warmup_constant}


def rank_ramp(total_steps: int) -> Schedule:
    """Weight of RankCLIP's ranking terms: clip(3 t, 0, 2) with t = step / `total_steps`."""
    return lambda step: jnp.clip(3.0 * jnp.asarray(step, jnp.float32) / total_steps, 0.0, 2.0)


def rank_ramp_released(steps_per_epoch: int, epochs: int) -> Schedule:
    """The same weight as in RankCLIP's released code, a staircase: clip(3 (e - 1) / (E - 1), 0, 2).

    e = 1, 2, ... E is the epoch of the step. Unlike in `rank_ramp`, the weight is constant within an epoch, and 0 in
    the first epoch.

    Raises:
      UserError: E = 1, where the formula divides by zero (the released code does not start).
    """
    if epochs < 2:
        raise UserError(f"the released epoch ramp needs at least 2 epochs, not {epochs}; use ramp=step.")

    def weight(step: jax.Array | int) -> jax.Array:
        epochs_done = jnp.asarray(step, jnp.int32) // steps_per_epoch
        return jnp.clip(3.0 * epochs_done.astype(jnp.float32) / (epochs - 1), 0.0, 2.0)

    return weight


# Factors of a loss weight: total steps -> schedule.
WEIGHT_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda total_steps: optax.constant_schedule(1.0),
    "linear_down": lambda total_steps: optax.linear_schedule(1.0, 0.0, total_steps),
    "linear_up": lambda total_steps: optax.linear_schedule(0.0, 1.0, total_steps),
    "ramp": rank_ramp,
}
