"""Read foreign weights from a file, a folder or a hub id: find the format, and call its reader."""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from rankclip_jax.errors import UserError
from rankclip_jax.inference.model import Model
from rankclip_jax.weights.formats import huggingface, open_clip
from rankclip_jax.weights.formats.foreign import Foreign, convert
from rankclip_jax.weights.formats.huggingface_table import KINDS
from rankclip_jax.weights.formats.tensor_files import SAFETENSORS, TORCH, read_json

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
SMALL_FILES = ("*.json", "*.txt", "spiece.model")


def read_source(source: str | Path, config_file: str = "", activation: str = "") -> Model:
    """Read foreign weights.

    Args:
      source: a weights file, a folder of transformers or open_clip, or the id of such a folder on the Hugging Face hub.
      config_file: open_clip's JSON config, for a state dict whose shapes do not determine everything.
      activation: "quick_gelu" or "gelu", for a state dict without config.

    Raises:
      UserError: nothing was found, the format or architecture is unknown, or a file is damaged or holds code.
    """
    return convert(read_foreign(locate(str(source)), config_file, activation))._replace(origin=str(source))


def read_foreign(path: Path, config_file: str = "", activation: str = "") -> Foreign:
    """Read the file or folder at `path` with the reader of its format; errors as in `read_source`."""
    if config_file and not Path(config_file).is_file():
        raise UserError(f"no config at {config_file}: give open_clip's JSON config of the model.")
    config_path = Path(config_file) if config_file else None
    if path.is_dir() and not config_path and not activation and huggingface.kind_of(path):
        return huggingface.read(path)
    if path.is_dir() and _model_type(path) and not (path / open_clip.CONFIG).is_file() and not config_path:
        raise UserError(_unknown(path))
    weights = _lone_weights(path)
    beside = path if path.is_dir() else path.parent
    if weights is not None and huggingface.kind_of(beside) and not (config_path or activation):
        return huggingface.read(beside)
    if (path / open_clip.CONFIG).is_file() or weights is not None:
        return open_clip.read(weights or path, config_path, activation)
    raise UserError(_unknown(path))


def is_source(source: str | Path) -> bool:
    """Whether `source` is the path of foreign weights, or may be a hub id. No weights are read."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix in (*SAFETENSORS, *TORCH)
    if path.is_dir():
        return bool(_model_type(path)) or (path / open_clip.CONFIG).is_file() or _lone_weights(path) is not None
    return bool(HUB_ID.fullmatch(str(source)))


def locate(source: str) -> Path:
    """The path of weights on this machine. Weights on the hub are downloaded, or found in its cache.

    Raises:
      UserError: the weights are neither here nor on the hub, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not HUB_ID.fullmatch(source):
        raise UserError(f"no weights at {source}: give a file, a folder, or a hub id (openai/clip-vit-base-patch32).")
    return _download(source)


def _download(hub_id: str) -> Path:
    """Download the weights in one format: hub folders often hold the same weights in several formats."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(SMALL_FILES)))
        for patterns in _weights_patterns(folder):
            folder = Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
            if any(fnmatch(name, pattern) for name in os.listdir(folder) for pattern in patterns):
                return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"there is no path {hub_id!r} on this machine, and the Hugging Face hub does not provide it "
            f"({type(error).__name__}: {first_line}): check the name and the connection."
        ) from None
    raise UserError(f"{hub_id} on the hub holds no supported weights: {_unknown(folder)}")


def _weights_patterns(folder: Path) -> Sequence[Sequence[str]]:
    """File patterns to download, in order of preference."""
    if huggingface.kind_of(folder):
        return ("model*.safetensors",), ("pytorch_model*.bin",)
    return ("open_clip*.safetensors",), ("open_clip*.bin",), ("model.safetensors",)


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    return str(read_json(path).get("model_type", "")) if path.is_file() else ""


def _lone_weights(path: Path) -> Path | None:
    """`path` if it is a file, or the only weights file of a folder without open_clip's config."""
    if not path.is_dir():
        return path
    if (path / open_clip.CONFIG).is_file():
        return None
    found = [file for file in sorted(path.iterdir()) if file.suffix in (*SAFETENSORS, *TORCH)]
    return found[0] if len(found) == 1 else None


def _unknown(path: Path) -> str:
    kinds = ", ".join(KINDS)
    if path.is_dir() and _model_type(path):
        return f"{path} holds a model of type {_model_type(path)!r}: supported models of transformers are {kinds}."
    return (
        f"{path} has an unknown format: give a state dict ({', '.join((*SAFETENSORS, *TORCH))}), a folder with "
        f"{open_clip.CONFIG}, or a folder of transformers ({kinds})."
    )
