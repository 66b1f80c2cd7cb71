"""Load a model from a folder, a file or a hub id: ``rankclip_jax.load(path)``.

A training run, an imported folder and the weights of another library all become the same `Model`.
"""

import os
from pathlib import Path
from typing import Any, SupportsIndex

import jax
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.run_copy import copy_in, newest_copy, warn_of_another_run
from rankclip_jax.checkpoints.weights import load_model
from rankclip_jax.errors import UserError
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.model import Model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run_folder import CHECKPOINTS, CONFIG, TOKENIZER, has_checkpoint, is_step
from rankclip_jax.weights.formats.source import is_source, locate, read_foreign, read_source


def load(path: str | Path, step: int | str | None = None, *, batch_size: int | None = None) -> Encoder:
    """Load a trained model, whatever machine or library trained it.

    Args:
      path: a run folder (the `--workdir` of training), its ``checkpoints`` folder, or one step in it; an imported
        folder; or weights of OpenAI, open_clip or transformers (a file, a folder or a hub id).
      step: for a run: the number of a step, "best" (by the run's validation metric), or None for the newest.
      batch_size: largest number of images or texts that are encoded together; by default 32 on CPUs, else 256.

    Returns:
      an `Encoder` on all devices of this process, with the averaged weights if the run keeps an average.

    Raises:
      UserError: the path or the checkpoint does not exist, the checkpoint is damaged, the format is unknown, or
        `batch_size` is not a positive whole number.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise UserError(f"batch_size={batch_size!r} must be a whole number of at least 1.")
    return encoder_of(read_model(path, step), batch_size)


def encoder_of(model: Model, batch_size: int | None = None) -> Encoder:
    """Return an `Encoder` on all devices of this process; `batch_size` as for `load`."""
    towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
    mesh = make_mesh(jax.local_devices())
    return Encoder(towers, model.weights, model.tokenizer, mesh, batch_size=batch_size, step=model.step)


def read_model(path: str | Path, step: int | str | None = None) -> Model:
    """Read a model without building its towers; arguments and errors as for `load`."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise UserError(f"a model cannot be loaded from {path!r}: pass the path of a run folder, or a hub id.")
    if isinstance(step, bool) or not isinstance(step, str | SupportsIndex | None):
        raise UserError(f'step={step!r} must be the number of a step, "best", or None for the newest.')
    if is_run(path) or not is_source(path):
        return _read_run(path, step)
    if step is not None:
        raise UserError(f"{path} holds foreign weights, which have no steps: leave out the step.")
    return read_source(path)


def read_model_config(path: str | Path) -> ConfigDict:
    """Return `config.model` of the model at `path`, without initialising JAX's devices or processes."""
    if not is_run(path) and is_source(path):
        return read_foreign(locate(str(path))).config
    run, _ = find_run(Path(path))
    copy = newest_copy(run)
    if copy is None:
        raise UserError(f"{run} has no intact checkpoint.")
    return ConfigDict(copy.record["config"]["model"])


def _read_run(path: str | Path, step: int | str | None) -> Model:
    run, step = find_run(Path(path), step)
    weights, meta = load_model(str(run / CHECKPOINTS), step)
    copy = copy_in(meta, meta["step"], str(run / CHECKPOINTS))
    warn_of_another_run(run, copy)
    return Model(
        config=ConfigDict(copy.record["config"]["model"]),
        # An imported tower alone has no scalars, and empty dictionaries are not stored.
        weights=weights._replace(params={"scalars": {}, **weights.params}),
        tokenizer=copy.tokenizer,
        step=copy.step,
        origin=str(path),
        format="imported folder" if is_imported(copy.record) else "run",
    )


def is_run(path: str | Path) -> bool:
    """Return whether `path` is a run folder or an imported folder, or lies in one."""
    try:
        run, _ = find_run(Path(path))
    except UserError:
        return False
    return (run / CHECKPOINTS).is_dir() or (run / TOKENIZER).is_dir()


def is_imported(record: dict[str, Any]) -> bool:
    """Return whether ``config.json`` belongs to an imported folder, whose training data are unknown."""
    return "imported" in record


def find_run(path: Path, step: int | str | None = None) -> tuple[Path, int | str | None]:
    """Return the run folder that `path` is or lies in, and the step in the path, or else `step`.

    Raises:
      UserError: there is no run.
    """
    path = path.expanduser().absolute()  # the parents of "." and "20" then have names
    if is_step(path.name) and path.parent.name == CHECKPOINTS:
        path, step = path.parent, int(path.name)
    if path.name == CHECKPOINTS:
        path = path.parent
    if not (path / CONFIG).is_file() and not has_checkpoint(path):
        raise UserError(f"no run at {path}: config.json is missing; give the --workdir of a training run.")
    return path, step
