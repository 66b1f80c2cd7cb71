"""Check whether a run folder holds the run of this config or of another one."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.config.record import to_json
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.run_folder import CONFIG
from rankclip_jax.trees import flatten

# Keys that a restart of the same run may change: none of them affects a weight or a batch. (Another mesh or machine
# changes the order of sums: the run continues, but its weights are not equal to the bit.)
MAY_CHANGE = (
    "allow_cpu",
    "checkpoint.*",
    "compilation_cache",
    "data.max_bad_fraction",
    "data.num_threads",
    "data.prefetch",
    # The data may move: their digest is compared.
    "data.index_dir",
    "data.image_root",
    "data.quarantine",
    "data.root",
    "data.second_captions",
    "data.test",
    "data.train",
    "data.val",
    "eval.*",
    "grace_seconds",
    "log.*",
    "mesh.*",
    "processes",
    "skip.stop_after",
    "stuck_seconds",
)


def check_same_run(
    workdir: str | Path,
    saved: Mapping[str, Any] | None,
    config: ConfigDict | Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Check that `workdir` holds this run and can continue it. Keys that match `MAY_CHANGE` may differ.

    Args:
      workdir: folder of a run that has logged or saved something.
      saved: its record; None if that is lost.
      config: result of `resolve`. Because durations are in steps, every cause of another number of steps is detected;
        the learning rate depends on that number.
      data: as in `run_record`; None excludes the data from the comparison.

    Raises:
      UserError: `workdir` holds another run; the message names the first keys that differ.
    """
    if saved is None:
        raise UserError(f"{workdir} holds a run without its {CONFIG}: restore that file, or use another --workdir")
    changes = differences(saved["config"], json.loads(to_json(config)))
    if data is not None:
        changes += differences(saved["data"], json.loads(to_json(data)), "data: ")
    if changes:
        raise UserError(
            f"{workdir} holds a run of another config: {first_few(changes)}. "
            "Use another --workdir, or the old values to continue that run; to change it on purpose, add "
            "--resume_from=latest (or an earlier checkpoint's step)"
        )


def comparable(config: ConfigDict) -> dict[str, Any]:
    """Return the values that the processes of one run have in common, by "config.KEY".

    It leaves out what may differ between machines: locations of data, whose digest is compared, and their threads.
    """
    local = [pattern for pattern in MAY_CHANGE if pattern.startswith("data.")]
    shared = {key: value for key, value in flatten(config) if not any(fnmatch(key, pattern) for pattern in local)}
    return {f"config.{key}": value for key, value in json.loads(to_json(shared)).items()}


def differences(old: Mapping, new: Mapping, label: str = "") -> list[str]:
    """Return 'key old -> new' for each value that differs and must not in one run, with `label` before it."""
    olds, news = dict(flatten(old)), dict(flatten(new))
    keys = [key for key in olds | news if not any(fnmatch(key, pattern) for pattern in MAY_CHANGE)]
    shown = {key: (_show(olds, key), _show(news, key)) for key in sorted(keys)}
    return [f"{label}{key} {was} -> {now}" for key, (was, now) in shown.items() if was != now]


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "(absent)"
