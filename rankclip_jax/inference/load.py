"""From a folder, a file or a hub id to a model: ``rankclip_jax.load(path)``.

A run of our own and weights of other libraries become the same `Model`; all that follows knows no difference.
"""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.manager import load_model
from rankclip_jax.config.record import load_run_config
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.model import Model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run_folder import CHECKPOINTS, CONFIG, TOKENIZER


def load(path: str | Path, step: int | str | None = None) -> Encoder:
    """Load a trained model on this machine, whatever machine or library trained it.

    Args:
      path: a run folder (the `--workdir` of training), its ``checkpoints`` folder, or one step in it; an imported
        folder; or weights of OpenAI, open_clip or transformers: a file, a folder, a hub id.
      step: of a run a step number, "best" (by the run's validation metric), or None for the newest.

    Returns:
      an `Encoder`, of the averaged weights if the run averages them.

    Raises:
      UserError: nothing there, no such checkpoint, a damaged one, or a format that is not known.
    """
    return encoder_of(read_model(path, step))


def encoder_of(model: Model) -> Encoder:
    """An `Encoder` on the first device of this process."""
    towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
    mesh = make_mesh(jax.local_devices()[:1])
    return Encoder(towers, model.params, model.tokenizer, mesh, step=model.step, model_state=model.model_state)


def read_model(path: str | Path, step: int | str | None = None) -> Model:
    """Read what `load` reads, without building anything."""
    from rankclip_jax.weights.formats.source import is_source, read_source

    if is_run(path) or not is_source(path):
        return _read_run(path, step)
    if step is not None:
        raise UserError(f"{path} holds foreign weights, which have no steps: leave out the step.")
    return read_source(path)


def read_model_config(path: str | Path) -> ConfigDict:
    """`config.model` of what `load` reads; neither a device nor a distributed run is begun."""
    from rankclip_jax.weights.formats.source import is_source, locate, read_foreign

    if not is_run(path) and is_source(path):
        return read_foreign(locate(str(path))).config
    run, _ = find_run(Path(path))
    return ConfigDict(load_run_config(str(run))["config"]["model"])


def _read_run(path: str | Path, step: int | str | None) -> Model:
    run, step = find_run(Path(path), step)
    record = load_run_config(str(run))
    tokenizer = Tokenizer.load(run / TOKENIZER)
    model, meta = load_model(str(run / CHECKPOINTS), step)
    return Model(
        config=ConfigDict(record["config"]["model"]),
        params=model["params"],
        model_state=model["model_state"],
        tokenizer=tokenizer,
        step=meta["step"],
        origin=str(path),
        format="imported folder" if is_imported(record) else "run",
    )


def is_run(path: str | Path) -> bool:
    """Whether there is a folder of our own here, of a run or imported."""
    try:
        run, _ = find_run(Path(path))
    except UserError:
        return False
    return (run / CHECKPOINTS).is_dir() or (run / TOKENIZER).is_dir()


def is_imported(record: dict[str, Any]) -> bool:
    """Whether ``config.json`` is of an imported folder: then nobody knows on which data it was trained."""
    return "imported" in record


def find_run(path: Path, step: int | str | None = None) -> tuple[Path, int | str | None]:
    """The run folder that `path` (see `load`) is or is in, and the step wanted of it.

    Raises:
      UserError: no run there.
    """
    path = path.expanduser().absolute()  # so that parents of "." and "20" have names
    if path.name.isdigit() and path.parent.name == CHECKPOINTS:
        path, step = path.parent, int(path.name)
    if path.name == CHECKPOINTS:
        path = path.parent
    if not (path / CONFIG).is_file():
        raise UserError(f"no run at {path}: config.json is not there; give the --workdir of a training run.")
    return path, step
