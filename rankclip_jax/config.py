"""From the config as written to the config as run: checks, durations in steps, and `config.json`.

Written configs hold durations as strings (`schedules.to_steps`); `resolve` turns them into steps once, so
that the rest of the program, and `config.json`, know steps only.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import IMAGE_OPTIONS, REMAT_BY_BOOL, TEXT_OPTIONS
from rankclip_jax.schedules import to_steps

FILE = "config.json"

# A key with one of these names, at any depth, is a duration.
DURATIONS = ("duration", "warmup", "every")

# What a restart of the same run may change: nothing that reaches a weight or a batch. (Another mesh, like
# another machine, changes the order of sums: then the run goes on, though not to the same bits.)
MAY_CHANGE = (
    "checkpoint.*",
    "data.max_bad_fraction",
    "data.num_threads",
    "data.prefetch",
    # Data may move: their digest is compared.
    "data.index_dir",
    "data.pictures",
    "data.quarantine",
    "data.root",
    "data.second_captions",
    "data.test",
    "data.train",
    "data.val",
    "eval.*",
    "log.*",
    "mesh.*",
)

# Keys that older runs lack, with what they ran with.
ADDED = {
    "data.view_augment": "",
    "data.view_text_augment": "",
    "init_from": "",
    **{f"data.{name}": "" for name in ("train", "val", "test", "pictures", "index_dir", "quarantine")},
    **{f"data.{name}": "" for name in ("image_key", "caption_key", "second_caption_key", "second_captions")},
    "data.val_pairs": 0,
    "data.templates": ["a photo of a {}."],  # as JSON has it
    "data.text_augment": "none",
    "micro_batches": 1,
    "optimizer.ema_decay": 0.0,
    "optimizer.freeze": "",
    **{f"model.image.{name}": value for name, value in IMAGE_OPTIONS.items()},
    **{f"model.text.{name}": value for name, value in TEXT_OPTIONS.items()},
}

PACKAGES = (
    "rankclip_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml_collections",
    "numpy",
    "pillow",
    "pillow-simd",
    "nltk",
    "tokenizers",
)


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


def flatten(node: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf."""
    for key, value in node.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(config: ConfigDict | Mapping) -> str:
    """Return `config` as JSON text, sorted and indented; tuples become lists."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.dumps(plain, indent=2, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """JSON form of what JSON does not know: numpy scalars by value, dtypes and functions by name."""
    if hasattr(value, "item"):
        return value.item()
    return getattr(value, "__name__", None) or str(value)


def versions() -> dict[str, str]:
    """Versions of everything that can change a result; a package that is not there is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save_run_config(
    workdir: str,
    config: ConfigDict,
    data: Mapping[str, Any],
    devices: Mapping[str, Any],
    params: Mapping[str, Any],
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Write ``workdir/config.json``: all there is to know of how a run came about. Atomic.

    Call it in one process only (`distributed.is_main`).

    Args:
      workdir: run folder, made if missing.
      config: as `resolve` returned it.
      data: what identifies the data (split sizes, digests).
      devices: platform, counts, mesh.
      params: parameter counts per tower.
      imported: where foreign weights came from; None for a run.
    """
    record = {"config": config.to_dict(), "versions": versions(), "data": data}
    record |= {"devices": devices, "params": params} | ({"imported": imported} if imported else {})
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, FILE)
    with open(f"{path}.tmp", "w") as file:
        file.write(to_json(record) + "\n")
    os.replace(f"{path}.tmp", path)


def load_run_config(workdir: str) -> dict[str, Any] | None:
    """Return what `save_run_config` wrote, None if there is nothing."""
    path = os.path.join(workdir, FILE)
    try:
        with open(path) as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); use another --workdir") from None
    for part in ("config", "data"):
        if not isinstance(record, dict) or not isinstance(record.get(part), dict):
            raise UserError(f"{path} is not what training writes (it has no {part!r}); use another --workdir")
    return record


def make_workdir(workdir: str) -> None:
    """Make the run folder, and find out now, not at the first save, whether anything can be written there.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to --workdir={workdir} ({reason}); mend that or choose another") from None


def check_same_run(workdir: str, config: ConfigDict, data: Mapping[str, Any] | None = None) -> bool:
    """Return whether `workdir` already holds this very run; refuse one that holds another.

    Keys that match `MAY_CHANGE` may differ. A run that has logged and saved nothing yet (it died of too large
    a batch, say) does not count.

    Args:
      config: as `resolve` returned it, so that a changed number of steps is seen however it came about:
        the learning rate depends on it.
      data: as given to `save_run_config`; None leaves it out of the comparison.

    Raises:
      UserError: names the first keys that differ.
    """
    saved = load_run_config(workdir)
    if not has_progress(workdir):
        return False
    if saved is None:
        raise UserError(f"{workdir} holds a run without its {FILE}: restore that file, or use another --workdir")
    changes = _differences(_as_written_now(saved["config"], config), json.loads(to_json(config)))
    if data is not None:
        changes += _differences(saved["data"], json.loads(to_json(data)), "data: ")
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(changes[:3])}{more}. "
            "Use another --workdir, or the old values to continue that run"
        )
    return True


def _as_written_now(saved: Mapping, config: ConfigDict) -> dict[str, Any]:
    """The leaves of a saved config, with what newer versions added to or changed in those that `config` has."""
    news = dict(flatten(config))
    olds = {key: value for key, value in ADDED.items() if key in news} | dict(flatten(saved))
    for key in (f"model.{side}.remat" for side in ("image", "text")):
        if isinstance(olds.get(key), bool):
            olds[key] = REMAT_BY_BOOL[olds[key]]
    return olds


def _differences(old: Mapping, new: Mapping, label: str = "") -> list[str]:
    """One 'key old -> new' for each leaf that differs and may not."""
    olds, news = dict(flatten(old)), dict(flatten(new))
    keys = [key for key in olds | news if not any(fnmatch(key, pattern) for pattern in MAY_CHANGE)]
    shown = {key: (_show(olds, key), _show(news, key)) for key in sorted(keys)}
    return [f"{label}{key} {was} -> {now}" for key, (was, now) in shown.items() if was != now]


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "(absent)"


def has_checkpoint(workdir: str) -> bool:
    """Whether the run in `workdir` has saved anything."""
    checkpoints = os.path.join(workdir, "checkpoints")
    return os.path.isdir(checkpoints) and any(name.isdigit() for name in os.listdir(checkpoints))


def has_progress(workdir: str) -> bool:
    """Whether the run in `workdir` has anything to lose: a checkpoint, or a line of metrics."""
    if has_checkpoint(workdir):
        return True
    metrics = os.path.join(workdir, "metrics.jsonl")
    return os.path.exists(metrics) and os.path.getsize(metrics) > 0
