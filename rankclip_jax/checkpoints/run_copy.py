"""The copy of a run's small files in each of its checkpoints: ``config.json`` and the tokenizer.

A checkpoint verifies its copy with a checksum. Models are loaded from it. It also replaces a ``config.json`` that is
damaged or lost.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rankclip_jax.checkpoints import files
from rankclip_jax.config.changes import differences
from rankclip_jax.config.history import KEY as HISTORY
from rankclip_jax.config.history import history_of, undone
from rankclip_jax.config.record import load_run_config, to_json
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.files.json_files import misfit
from rankclip_jax.parallel import processes
from rankclip_jax.run_folder import CHECKPOINTS, CONFIG
from rankclip_jax.terminal.show import warn

KEY = "run"  # in the meta of a checkpoint


class RunCopy(NamedTuple):
    """The copy in a checkpoint."""

    step: int
    record: dict[str, Any]  # content of config.json
    tokenizer: Tokenizer


def copy_meta(record: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the part of a checkpoint's meta that `copy_in` reads."""
    return {KEY: {"record": json.loads(to_json(record)), "tokenizer": tokenizer.texts()}}


def copied_record(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the copy of the record in the meta of a checkpoint; None if it has none."""
    return meta[KEY]["record"] if KEY in meta else None


def copy_in(meta: Mapping[str, Any], step: int, where: str) -> RunCopy:
    """Return the copy in the meta of a checkpoint.

    Raises:
      UserError: it has none.
    """
    record = copied_record(meta)
    if record is None:
        raise UserError(f"checkpoint {step} in {where} has no copy of its run: it is no checkpoint of a training run.")
    return RunCopy(step, record, Tokenizer.of_texts(meta[KEY]["tokenizer"], f"checkpoint {step}"))


def warn_of_another_run(workdir: str | Path, copy: RunCopy) -> None:
    """Print one line if the checkpoint of `copy` and ``config.json`` are of different runs, or one was edited."""
    try:
        record = load_run_config(workdir)
    except UserError:
        return  # the copy is used instead
    then = undone(record, len(history_of(copy.record)))["config"] if record else {}
    changes = differences(then, copy.record["config"]) if record else []
    if changes and processes.is_main():
        path = Path(workdir) / CHECKPOINTS / str(copy.step)
        warn(f"{path} has another config than {CONFIG} ({first_few(changes)}): it is of another run, or one was edited")


def record_in(workdir: str | Path, step: int) -> dict[str, Any] | None:
    """Return the copy of the record in one checkpoint; None if it is damaged or has none."""
    try:
        meta = files.read_record(files.absolute(str(Path(workdir) / CHECKPOINTS)), step)["meta"]
    except files.Damaged:
        return None
    return copied_record(meta)


def newest_copy(workdir: str | Path) -> RunCopy | None:
    """Return the copy in the newest checkpoint whose record is intact; None without one."""
    folder = files.absolute(str(Path(workdir) / CHECKPOINTS))
    for step in files.steps(folder):
        try:
            meta = files.read_record(folder, step)["meta"]
        except files.Damaged:
            continue
        if KEY in meta:
            return copy_in(meta, step, str(folder))
    return None


def read_record(workdir: str | Path) -> dict[str, Any] | None:
    """Return the content of a run's ``config.json``; None if there is neither this file nor a checkpoint.

    If the file is missing, damaged, of other types than the copy in the newest checkpoint, or lacks a change of the run
    that the copy has, the copy is returned, and the main process prints one line.

    Raises:
      UserError: the file is damaged, and there is no copy.
    """
    copy, path = newest_copy(workdir), Path(workdir) / CONFIG
    try:
        record = load_run_config(workdir)
    except UserError as error:
        if copy is None:
            raise
        return _instead(copy, str(error).split(": restore it")[0])
    if copy is None:
        return record
    if record is None:
        return _instead(copy, f"{path} is missing")
    newer = len(history_of(record)) - len(history_of(copy.record))
    if newer < 0:
        return _instead(copy, f"{path} is older than the newest checkpoint")
    like = {name: value for name, value in copy.record.items() if name != HISTORY}
    problem = "" if newer else misfit(record, like)  # a change may add and remove keys
    return _instead(copy, f"{path} is damaged ({problem})") if problem else record


def _instead(copy: RunCopy, problem: str) -> dict[str, Any]:
    if processes.is_main():
        warn(f"{problem}; the copy in checkpoint {copy.step} is used")
    return copy.record
