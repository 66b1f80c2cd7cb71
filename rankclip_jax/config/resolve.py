"""Resolve a config: check it, convert every duration to steps, and freeze it.

Config files hold durations as strings (`schedules.to_steps`). `resolve` converts them once; the rest of the program and
`config.json` have steps only.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.schedules import to_steps
from rankclip_jax.trees import flatten

# A key with one of these names, at any depth, is a duration.
DURATIONS = ("duration", "warmup", "every")


def check_batch(batch_size: int, *, device_count: int = 1, process_count: int = 1) -> None:
    """Reject an empty global batch, and one that does not split evenly over devices and processes.

    Raises:
      UserError: names the nearest valid sizes.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    for count, what in ((device_count, "devices"), (process_count, "processes")):
        if batch_size % count:
            below, above = batch_size // count * count, -(-batch_size // count) * count
            nearest = f"{below} or {above}" if below else f"{above}"
            raise UserError(f"batch_size={batch_size} is not divisible by {count} {what}; use {nearest}")


def resolve(config: ConfigDict, *, examples: int) -> FrozenConfigDict:
    """Return a frozen copy of `config` in which every duration is an int, in steps.

    Args:
      config: has ``batch_size`` (global, in examples; checked by `check_batch`) and ``duration`` (of the whole run).
      examples: number of training examples; the last, partial batch of an epoch is dropped.

    Raises:
      UserError: a batch larger than the data, an invalid duration, or a warm-up as long as the run.
    """
    batch_size = config.batch_size
    if examples < batch_size:
        raise UserError(f"batch_size={batch_size} is more than the {examples} training examples; lower it")
    units = {"steps_per_epoch": examples // batch_size, "batch_size": batch_size}
    total = to_steps(config.duration, **units)
    if total < 1:
        raise UserError(f"duration={config.duration!r} must be at least one step; write 1000 steps or 3 epochs")
    resolved = FrozenConfigDict(_with_steps(config.to_dict(), total, units))
    for key, value in flatten(resolved):
        if key.rsplit(".", 1)[-1] == "warmup" and value >= total:
            raise UserError(f"{key} is {value} steps and the whole run {total}; shorten the warm-up")
    return resolved


def with_value(config: ConfigDict, key: str, value: Any) -> FrozenConfigDict:
    """Return a frozen copy of `config` in which the dotted `key` has another value."""
    changed = ConfigDict(config.to_dict()).lock()  # a misspelt key is then an error
    changed.update_from_flattened_dict({key: value})
    return FrozenConfigDict(changed)


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
