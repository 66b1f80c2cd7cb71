"""The history of a run that was changed on purpose: the list "changes" in its ``config.json``, oldest first.

    {"step": 400, "time": "2026-11-27T18:00:00+00:00", "kept": "abandoned/1",
     "changed": {"config.optimizer.learning_rate": {"old": 0.003, "new": 0.001}}}

The run continued from the checkpoint of `step`. What was later is the abandoned branch, in the folder `kept` (null if
there was nothing). A key that was added has no "old", and one that was removed has no "new". Each checkpoint has a copy
of the record, and so the history up to its time.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

from rankclip_jax.config.changes import MAY_CHANGE
from rankclip_jax.errors import UserError
from rankclip_jax.trees import flatten

KEY = "changes"  # in config.json
Record = Mapping[str, Any]  # content of config.json
Change = dict[str, Any]
# The weights were made with these keys, or the tokenizer, which is kept.
NEVER = ("config.init_from", "config.model.*", "config.tokenizer.*")
FREE = ("config.model.embeds",)  # determined by the objective


def history_of(record: Record | None) -> list[Change]:
    """Return the changes of a run, oldest first."""
    return list((record or {}).get(KEY, ()))


def new_change(step: int, old: Record, new: Record) -> Change:
    """Return the change from one record to another at a step; keys that any restart may change are left out.

    Raises:
      UserError: the weights or the tokenizer depend on a key that differs.
    """
    olds, news = _values(old), _values(new)
    changed = {}
    for key in sorted(olds | news):
        may_change = any(fnmatch(key, f"config.{pattern}") for pattern in MAY_CHANGE)
        value = {side: values[key] for side, values in (("old", olds), ("new", news)) if key in values}
        if not may_change and (len(value) < 2 or value["old"] != value["new"]):
            changed[key] = value
    for key in changed:
        if any(fnmatch(key, pattern) for pattern in NEVER) and key not in FREE:
            raise UserError(
                f"{describe({key: changed[key]})}: this key cannot change in a run; begin another --workdir, perhaps "
                "with --config.init_from=RUN"
            )
    return {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), "changed": changed}


def describe(changed: Mapping[str, Mapping[str, Any]]) -> str:
    """Return 'key old -> new' for each changed key, in one line."""

    def show(value: Mapping[str, Any], side: str) -> str:
        return json.dumps(value[side]) if side in value else "(absent)"

    return "; ".join(f"{key} {show(value, 'old')} -> {show(value, 'new')}" for key, value in changed.items())


def is_on_branch(step: int, own: Sequence[Change], history: Sequence[Change]) -> bool:
    """Return whether a checkpoint belongs to the present run, not to an abandoned branch.

    Args:
      step: of the checkpoint.
      own: history in the checkpoint's copy of the record.
      history: history of the run.
    """
    began = list(own) == list(history[: len(own)])
    return began and all(step <= change["step"] for change in history[len(own) :])


def undone(record: Record, count: int) -> dict[str, Any]:
    """Return {"config", "data"} of a record as they were after its first `count` changes, with dotted keys."""
    values = _values(record)
    for change in reversed(history_of(record)[count:]):
        for key, value in change["changed"].items():
            values.pop(key, None)
            if "old" in value:
                values[key] = value["old"]
    parts = {"config": {}, "data": {}}
    for key, value in values.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    return parts


def _values(record: Record) -> dict[str, Any]:
    """Return {"config.KEY" or "data.KEY": value}, in the types of JSON."""
    return dict(flatten({"config": record["config"], "data": record["data"]}))
