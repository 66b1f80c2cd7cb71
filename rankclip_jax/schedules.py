"""How long, and how a value moves over a run: durations, learning rates, the rank term's ramp.

A duration is one string: ``"1000 steps"`` (or ``"1000"``), ``"3 epochs"``, ``"2e6 examples"``, ``"5%"``.
Schedules are pure functions of the step, usable inside jit.
"""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

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

    A duration above zero is at least one step. Examples are rounded up to whole batches, epochs and
    percentages to the nearest step.

    Args:
      spec: a number and a unit; no unit means steps.
      total_steps: what a percentage is taken of; None where there is no total yet.
      steps_per_epoch: whole batches in one pass over the training data.
      batch_size: global batch, in examples.
      name: the config key, for messages.

    Raises:
      UserError: not a duration, an unknown unit, or a unit that means nothing here.
    """
    value, unit = _read(str(spec), name)
    if value == 0:
        return 0
    if unit == "steps":
        if value != int(value):
            raise UserError(f"{name}={spec!r}: steps are whole numbers")
        return int(value)
    base = {"%": total_steps, "epochs": steps_per_epoch, "examples": batch_size}[unit]
    if not base:
        possible = ["steps"] + ["epochs"] * bool(steps_per_epoch) + ["%"] * bool(total_steps)
        raise UserError(f"{name}={spec!r} cannot be given in {unit} here; use {' or '.join(possible)}")
    if unit == "examples":
        return math.ceil(value / base)
    return max(1, round(value * base / 100 if unit == "%" else value * base))


def _read(spec: str, name: str) -> tuple[float, str]:
    """Split '2e6 examples' into its number and its unit."""
    match = _SPEC.fullmatch(spec)
    try:
        value = float(match[1]) if match else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name}={spec!r} is no duration; write 1000 steps, 3 epochs, 2e6 examples or 5%")
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

    with W = `warmup_steps` and T = `total_steps`, k counted from 0: the schedule of open_clip, CyCLIP and
    RankCLIP. The released CyCLIP and RankCLIP code counts epochs from 1 in it, and so starts one whole
    epoch late: with CC3M and a batch of 256 there is no warm-up at all. That is not reproduced here.

    Returns a function of the step (an int or an int32 scalar) that gives a float32 scalar.
    """

    def learning_rate(step: jax.Array | int) -> jax.Array:
        k = jnp.asarray(step, jnp.float32)
        done = jnp.clip((k - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return peak * jnp.where(k < warmup_steps, (k + 1.0) / max(warmup_steps, 1), cosine)

    return learning_rate


def warmup_constant(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up as in `warmup_cosine`, then `peak` to the end, whatever `total_steps` is."""
    del total_steps

    def learning_rate(step: jax.Array | int) -> jax.Array:
        k = jnp.asarray(step, jnp.float32)
        return peak * jnp.minimum(1.0, (k + 1.0) / max(warmup_steps, 1))

    return learning_rate


SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "cosine": warmup_cosine,
    "constant": warmup_constant,
}


def rank_ramp(step: jax.Array | int, total_steps: int) -> jax.Array:
    """Weight of RankCLIP's rank terms: clip(3 t, 0, 2), t = `step` / `total_steps` the fraction done.

    Returns a float32 scalar: 0 at the start, 2 from two thirds of the run on.
    """
    return jnp.clip(3.0 * jnp.asarray(step, jnp.float32) / total_steps, 0.0, 2.0)


def rank_ramp_released(step: jax.Array | int, steps_per_epoch: int, epochs: int) -> jax.Array:
    """The same weight as RankCLIP's released code has it, a staircase: clip(3 (e - 1) / (E - 1), 0, 2).

    e = 1, 2, ... E is the epoch that `step` belongs to. Unlike `rank_ramp` it is flat within an epoch, and
    zero for the whole of the first.

    Raises:
      UserError: E = 1, where the formula divides by zero (the released code does not start).
    """
    if epochs < 2:
        raise UserError(f"the released epoch ramp needs 2 epochs or more, not {epochs}; use the ramp by step")
    epochs_done = jnp.asarray(step, jnp.int32) // steps_per_epoch
    return jnp.clip(3.0 * epochs_done.astype(jnp.float32) / (epochs - 1), 0.0, 2.0)


def linear_up(step: jax.Array | int, total_steps: int) -> jax.Array:
    """From 0 to 1 over the run, linearly."""
    return jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)


def linear_down(step: jax.Array | int, total_steps: int) -> jax.Array:
    """From 1 to 0 over the run, linearly."""
    return 1.0 - linear_up(step, total_steps)


# What a term's weight is multiplied by over the run: (step, total steps) -> float32.
WEIGHT_SCHEDULES: dict[str, Callable[[jax.Array | int, int], jax.Array]] = {
    "constant": lambda step, total_steps: jnp.float32(1.0),
    "linear_down": linear_down,
    "ramp": rank_ramp,
    "linear_up": linear_up,
}
