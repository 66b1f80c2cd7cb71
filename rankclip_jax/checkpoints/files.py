"""Checkpoints on disk: list the steps, and read one without Orbax's manager.

Any problem of a checkpoint raises `Damaged`. Lack of memory or permission is no such problem and raises its own error.
"""

import errno
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding

from rankclip_jax.checkpoints.digests import altered, mismatches
from rankclip_jax.errors import NO_ACCESS, NO_ROOM, UserError, first_few
from rankclip_jax.files.json_files import regular_size
from rankclip_jax.run_folder import checkpoint_steps
from rankclip_jax.terminal.show import warn

PyTree = Any
NOTES = "_CHECKPOINT_METADATA"
LOST = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTCONN,
)  # disks and network folders that went away


class Damaged(Exception):
    """A checkpoint is incomplete, unreadable, or differs from what was saved."""


def absolute(folder: str) -> epath.Path:
    """Return a local path as an absolute one, and a URL unchanged."""
    return epath.Path(folder if "://" in str(folder) else os.path.abspath(folder))


def steps(folder: epath.Path) -> list[int]:
    """Return the steps in `folder`, newest first."""
    return checkpoint_steps(folder)


def notes(folder: epath.Path) -> list[epath.Path]:
    """Return Orbax's own file on each step: times and types of its parts."""
    found = (folder / str(step) / NOTES for step in steps(folder))
    return [path for path in found if os.path.lexists(path)]


def set_aside(path: epath.Path, problem: str) -> None:
    """Rename a file or folder to ``NAME.damaged``, and print one line with the problem."""
    target, n = path.parent / f"{path.name}.damaged", 1
    while os.path.lexists(target):
        target, n = path.parent / f"{path.name}.damaged.{n}", n + 1
    path.rename(target)
    warn(f"{problem}; it is renamed to {target.name}")


def scores(folder: epath.Path, best: Mapping[str, str | None] | None = None) -> dict[int, float]:
    """Return {step: score} for the steps in `folder` that have the metric.

    `best` is {"metric": name, "mode": "max" or "min"}; None for the choice that the run saved with each step.
    """
    found = {}
    for step in steps(folder):
        try:
            record = read_record(folder, step)
        except Damaged:
            continue
        found[step] = score(record["metrics"], best or record["best"])
    return {step: value for step, value in found.items() if value > -math.inf}


def best_first(folder: epath.Path, best: Mapping[str, str | None] | None = None) -> list[int]:
    """Return the steps that have the metric, best first; among equal scores, newest first."""
    found = scores(folder, best)
    return sorted(found, key=lambda step: (found[step], step), reverse=True)


def score(metrics: Mapping[str, float], best: Mapping[str, str | None]) -> float:
    """Return a score, higher is better: -inf if the metric is missing or NaN."""
    value = metrics.get(best["metric"], math.nan)
    if math.isnan(value):
        return -math.inf
    return value if best["mode"] == "max" else -value


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `record` as JSON represents it, plus its checksum under "sha256"."""
    plain = json.loads(json.dumps(record))
    return plain | {"sha256": _checksum(plain)}


def read_record(folder: epath.Path, step: int) -> dict[str, Any]:
    """Return the record that was saved with a step.

    Raises:
      Damaged: it is missing, unreadable, or its checksum is wrong.
    """
    path = folder / str(step) / "meta" / "metadata"
    try:
        regular_size(path, "restore it")
        record = json.loads(path.read_text())
        sound = record.pop("sha256") == _checksum(record)
    except FileNotFoundError:
        raise Damaged("its meta file is missing") from None
    except PermissionError:
        raise
    except (OSError, UserError) as error:
        raise Damaged(f"its meta file cannot be read: {_one_line(error)}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its meta file is unreadable: {_one_line(error)}") from error
    if not sound:
        raise Damaged("its meta file differs from what was saved")
    return record


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_arrays(folder: epath.Path, step: int, abstract_state: PyTree) -> PyTree:
    """Read all arrays, with the shapes, dtypes and shardings of `abstract_state`."""
    first = SingleDeviceSharding(jax.local_devices()[0])
    abstract_state = jax.tree.map(lambda leaf: leaf.update(sharding=leaf.sharding or first), abstract_state)
    placement = ocp.checkpoint_utils.construct_restore_args(abstract_state)
    # The caller has checked that every array is in the checkpoint. Partial: empty nodes are not saved.
    how = ocp.args.PyTreeRestore(abstract_state, restore_args=placement, partial_restore=True)
    return _restore(folder, step, how)


def read_numpy(folder: epath.Path, step: int, arrays: Sequence[Mapping[str, Any]]) -> PyTree:
    """Read the given arrays (entries of a manifest) as nested dicts of numpy arrays."""
    if not arrays:
        raise Damaged("it holds no parameters")
    tree: dict[str, Any] = {}
    for entry in arrays:
        node = tree
        for key in entry["path"][:-1]:
            node = node.setdefault(key, {})
        node[entry["path"][-1]] = jax.ShapeDtypeStruct(entry["shape"], entry["dtype"])
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return _restore(folder, step, ocp.args.PyTreeRestore(tree, restore_args=how, partial_restore=True))


def check_digests(saved: Sequence[Mapping[str, Any]], state: PyTree) -> None:
    """Raise `Damaged` unless the arrays of `state` are those of the manifest `saved`, bit by bit."""
    are_arrays = all(isinstance(leaf, np.ndarray | np.generic | jax.Array) for leaf in jax.tree.leaves(state))
    if not are_arrays or mismatches(saved, state):  # Orbax leaves placeholders where its notes are damaged
        raise Damaged("its arrays have other names, shapes or dtypes than the saved ones")
    wrong = altered(saved, state)
    if wrong:
        raise Damaged(f"the digest differs from the saved one in {first_few(wrong)}")


def _is_news(record: logging.LogRecord) -> bool:
    """False for the traceback that asyncio logs for each further array that a restore of Orbax failed to read."""
    error = record.exc_info[1] if record.exc_info else None
    return "tensorstore_spec" not in str(error)


logging.getLogger("asyncio").addFilter(_is_news)


def _restore(folder: epath.Path, step: int, how: ocp.args.PyTreeRestore) -> PyTree:
    """Run Orbax's reader without its manager, whose barrier would wait for a process that failed."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return handler.restore(folder / str(step) / "state", args=how)
    except Exception as error:
        if not _is_damage(error):
            raise
        raise Damaged(_one_line(error)) from error
    finally:
        handler.close()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def no_room(error: BaseException) -> str | None:
    """Return the system's message if any error in the chain means "no room to write", else None."""
    for number in NO_ROOM:
        message = os.strerror(number)  # libraries often keep only this text
        if any(getattr(e, "errno", None) == number or message in str(e) for e in _chain(error)):
            return message
    return None


def no_access(error: BaseException) -> str | None:
    """Return the system's message if an error, or its stated cause, means that a folder cannot be used, else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        found = next((os.strerror(n) for n in (*NO_ACCESS, *LOST) if os.strerror(n) in str(error)), None)
        if found:  # libraries often keep only this text
            return found
        error = error.__cause__
    return None


def _is_damage(error: BaseException) -> bool:
    """Return whether an error means a bad file, not a lack of memory, permission or connection."""
    others = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)
    words = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    return not any(isinstance(e, others) or any(word in str(e) for word in words) for e in _chain(error))


def _one_line(error: BaseException) -> str:
    """Return the shortened message of the root cause; outer errors only say that something failed."""
    root = list(_chain(error))[-1]
    text = " ".join(str(root).split()) or type(root).__name__
    return text if len(text) <= 160 else f"{text[:60]} ... {text[-95:]}"
