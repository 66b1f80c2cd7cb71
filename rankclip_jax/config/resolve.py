"""From the config as written to the config as run: checks, and durations in steps.

Written configs hold durations as strings (`schedules.to_steps`); `resolve` turns them into steps once, so
that the rest of the program, and `config.json`, know steps only.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.schedules import to_steps
from rankclip_jax.trees import flatten

# A key with one of these names, at any depth, is a duration.
DURATIONS = ("duration", "warmup", "every")


def resolve(config: ConfigDict, *, examples: int, device_count: int, process_count: int = 1) -> ConfigDict:
    """Return a locked copy of `config` that is checked and has every duration as an int, in steps.

    Args:
      config: needs ``batch_size`` (global, in examples) and ``duration`` (of the whole run).
      examples: training examples in one epoch; a last, partial batch of an epoch is dropped.
      device_count: devices of all processes together.
      process_count: processes, each of which loads an equal share of every batch.

    Raises:
      UserError: a batch that cannot be divided or filled, a duration that makes no sense, or a warm-up
        that does not end before the run does.
    """
    batch_size = config.batch_size
    check_batch(batch_size, device_count=device_count, process_count=process_count)
    if examples < batch_size:
        raise UserError(f"batch_size={batch_size} is more than the {examples} training examples; lower it")
    units = {"steps_per_epoch": examples // batch_size, "batch_size": batch_size}
    total = to_steps(config.duration, **units)
    if total < 1:
        raise UserError(f"duration={config.duration!r} is no training at all; write 1000 steps or 3 epochs")
    resolved = ConfigDict(_with_steps(config.to_dict(), total, units)).lock()
    for key, value in flatten(resolved):
        if key.rsplit(".", 1)[-1] == "warmup" and value >= total:
            raise UserError(f"{key} is {value} steps and the whole run {total}; shorten the warm-up")
    return resolved


def check_batch(batch_size: int, *, device_count: int, process_count: int = 1) -> None:
    """Refuse a global batch that does not split into equal whole shares, with the nearest that does."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    for count, what in ((device_count, "devices"), (process_count, "processes")):
        if batch_size % count:
            below, above = batch_size // count * count, -(-batch_size // count) * count
            nearest = f"{below} or {above}" if below else f"{above}"
            raise UserError(f"batch_size={batch_size} is not divisible by {count} {what}; use {nearest}")


def _with_steps(node: Mapping, total: int, units: Mapping[str, int], prefix: str = "") -> dict:
    """Copy a nested dict with every duration replaced by its steps."""
    out = {}
    for key, value in node.items():
        name = prefix + key
        if isinstance(value, Mapping):
            out[key] = _with_steps(value, total, units, f"{name}.")
        elif value is not None and key in DURATIONS:
            of = None if name == "duration" else total
            out[key] = to_steps(value, total_steps=of, name=name, **units)
        else:
            out[key] = value
    return out
