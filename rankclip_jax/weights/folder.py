"""Create folders atomically, and write imported weights as a folder.

An imported folder has the format of a run: ``config.json``, ``tokenizer/`` and a checkpoint of step 0 that holds only
parameters. So the same code reads both, and checks the same digests.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.run_copy import copy_meta
from rankclip_jax.config.record import run_record, write_record
from rankclip_jax.errors import UserError
from rankclip_jax.files.atomic import replaced_folder
from rankclip_jax.inference.model import Model
from rankclip_jax.models.counts import tower_counts
from rankclip_jax.run_folder import CHECKPOINTS, TOKENIZER


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` at the end of the block, or is removed after an error.

    Raises:
      UserError: `out` exists, or cannot be created.
    """
    folder = check_new(out)
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(replaced_folder(folder))
        except OSError as error:
            raise UserError(f"cannot write to --out={out} ({error.strerror}): choose another.") from error
        yield partial


def check_new(out: str | Path) -> Path:
    """The absolute path of a folder to create.

    Raises:
      UserError: it exists. Callers check this before they read the weights.
    """
    folder = Path(out).expanduser().absolute()
    if folder.exists():
        raise UserError(f"--out={out} exists already and is never overwritten: choose another, or move it away.")
    return folder


def write_imported(model: Model, out: str | Path) -> None:
    """Write foreign weights as a folder that `load`, `evaluate` and `config.init_from` read.

    Raises:
      UserError: `out` exists, or the disk is full.
    """
    imported = {"from": model.origin, "format": model.format}
    name = "clip" if model.tokenizer.is_clip_vocabulary else "from_weights"
    config = {"model": model.config.to_dict(), "tokenizer": {"name": name, "vocab_size": model.tokenizer.vocab_size}}
    with new_folder(out) as folder:
        counts = tower_counts(model.weights.params)
        record = run_record(ConfigDict(config), data={}, devices={}, params=counts, imported=imported)
        checkpoints = Checkpoints(str(folder / CHECKPOINTS), keep=1)
        checkpoints.save(0, model.weights._asdict(), copy_meta(record, model.tokenizer))
        checkpoints.close()
        model.tokenizer.save(folder / TOKENIZER)
        write_record(folder, record)
