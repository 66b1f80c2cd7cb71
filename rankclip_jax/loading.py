"""From a run folder back to a model: ``rankclip_jax.load(path)``."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from rankclip_jax.checkpoint import load_model
from rankclip_jax.config import load_run_config
from rankclip_jax.data.tokenizer import Tokenizer
from rankclip_jax.encoder import Encoder
from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.sharding import make_mesh

CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"


def load(path: str | Path, step: int | str | None = None) -> Encoder:
    """Load a trained model on this machine, whatever machine trained it.

    Args:
      path: a run folder (the `--workdir` of training), its ``checkpoints`` folder, or one step in it.
      step: a step number, "best" (by the run's validation metric), or None for the newest.

    Returns:
      an `Encoder` with `encode_image`, `encode_text`, `tokenize` and `logit_scale`, of the averaged weights if the
      run averages them.

    Raises:
      UserError: no run there, no such checkpoint, or a damaged one.
    """
    run, step = find_run(Path(path), step)
    record = load_run_config(str(run))
    tokenizer = Tokenizer.load(run / TOKENIZER)
    towers = build_towers(ConfigDict(record["config"]["model"]), tokenizer.vocab_size, tokenizer.eot_id)
    model, meta = load_model(str(run / CHECKPOINTS), step)
    mesh = make_mesh(jax.local_devices()[:1])
    return Encoder(towers, model["params"], tokenizer, mesh, step=meta["step"], model_state=model["model_state"])


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
    if not (path / "config.json").is_file():
        raise UserError(f"no run at {path}: config.json is not there; give the --workdir of a training run.")
    return path, step
