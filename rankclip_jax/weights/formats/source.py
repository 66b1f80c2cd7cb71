"""Read foreign weights from a file, a folder or a hub id: find the format, and call its reader."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from rankclip_jax.errors import UserError, first_few
from rankclip_jax.inference.model import Model
from rankclip_jax.weights.formats import huggingface, open_clip
from rankclip_jax.weights.formats.foreign import Foreign, convert
from rankclip_jax.weights.formats.huggingface_table import KINDS
from rankclip_jax.weights.formats.tensor_files import SAFETENSORS, TORCH, lone_file, read_json

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
URL = re.compile(r"(https?|ftp|s3|gs|hf)://")
SHARD = re.compile(r"-\d+-of-\d+\.")
PREFIXES = ("hf-hub:", "local-dir:")  # open_clip's, before a hub id and before a folder
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
    path = locate(str(source))
    foreign = read_foreign(path, config_file, activation)
    with _described(path):
        return convert(foreign)._replace(origin=str(source))


@contextmanager
def _described(path: Path) -> Iterator[None]:
    """Any error in the block becomes one line: a file can hold a value of a wrong type at any place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the files of {path} do not describe a model ({type(error).__name__}: {reason}): download them again."
        ) from error


def read_foreign(path: Path, config_file: str = "", activation: str = "") -> Foreign:
    """Read the file or folder at `path` with the reader of its format; errors as in `read_source`."""
    with _described(path):
        return _read_foreign(path, config_file, activation)


def _read_foreign(path: Path, config_file: str, activation: str) -> Foreign:
    if config_file and not Path(config_file).is_file():
        raise UserError(f"no config at {config_file}: give open_clip's JSON config of the model.")
    config_path = Path(config_file) if config_file else None
    path = model_folder(path)
    if path.is_dir() and not config_path and not activation and huggingface.type_of(path):
        return huggingface.read(path)
    if path.is_dir() and _model_type(path) and not (path / open_clip.CONFIG).is_file() and not config_path:
        raise UserError(_unknown(path))
    weights = _lone_weights(path)
    beside = path if path.is_dir() else path.parent
    if weights is not None and huggingface.type_of(beside) and not (config_path or activation):
        return huggingface.read(beside)
    if (path / open_clip.CONFIG).is_file() or weights is not None:
        return open_clip.read(weights or path, config_path, activation)
    raise UserError(_unknown(path))


def model_folder(folder: Path) -> Path:
    """The folder of the CLIPModel in a folder of sentence-transformers, or else `folder` itself."""
    listing = folder / "modules.json"
    if not listing.is_file() or _model_type(folder):
        return folder
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and huggingface.type_of(path)]
    if len(inner) != 1:
        raise UserError(f"{folder} is a model of sentence-transformers without a CLIPModel: use another model.")
    return inner[0]


def is_source(source: str | Path) -> bool:
    """Whether `source` is the path of foreign weights, or may be a hub id or an address. No weights are read."""
    if _has_prefix(str(source)) or URL.match(str(source)):
        return True
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix in (*SAFETENSORS, *TORCH)
    if path.is_dir():
        known = _model_type(path) or (path / open_clip.CONFIG).is_file() or (path / "modules.json").is_file()
        return bool(known or _weights_in(path))
    return bool(HUB_ID.fullmatch(str(source)))


def _has_prefix(source: str) -> bool:
    return source.startswith(PREFIXES)


def locate(source: str) -> Path:
    """The path of weights on this machine. Weights on the hub are downloaded, or found in its cache.

    Raises:
      UserError: the weights are neither here nor on the hub, or the hub cannot be reached.
    """
    if URL.match(source):
        raise UserError(_address_message(source))
    prefix, _, name = source.partition(":") if _has_prefix(source) else ("", "", source)
    path, source = Path(name).expanduser(), name
    if name and path.exists() and prefix != "hf-hub":
        return path
    if not HUB_ID.fullmatch(source) or prefix == "local-dir":
        raise UserError(f"no weights at {source}: give a file, a folder, or a hub id (openai/clip-vit-base-patch32).")
    return _download(source)


def _address_message(address: str) -> str:
    """The error for an address. Its query may hold a signature, and is not shown."""
    parts = urlsplit(address)
    where = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if hub := re.match(r"/([\w.-]+/[\w.-]+)(/|$)", parts.path if parts.hostname == "huggingface.co" else ""):
        return f"{where} is an address: give the hub id, {hub[1]}, or download the file and give its path."
    return f"{where} is an address: download the file, and give its path."


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
    if huggingface.type_of(folder):
        return ("model*.safetensors",), ("pytorch_model*.bin",)
    return ("open_clip*.safetensors",), ("open_clip*.bin",), ("model.safetensors",)


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    return str(read_json(path).get("model_type", "")) if path.is_file() else ""


def _lone_weights(path: Path) -> Path | None:
    """`path` if it is a file, or the only weights file of a folder without open_clip's config."""
    if not path.is_dir():
        return path
    return None if (path / open_clip.CONFIG).is_file() else lone_file(path)


def _weights_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (*SAFETENSORS, *TORCH))


def _unknown(path: Path) -> str:
    kinds = ", ".join(KINDS)
    several = _weights_in(path) if path.is_dir() and not _model_type(path) else []
    if path.is_dir() and (path / "config.json").is_file() and not _model_type(path):
        return f'{path}/config.json names no model_type: add "model_type": "clip" or "siglip", if it is such a model.'
    if any(SHARD.search(name) for name in several):
        return f"{path} holds shards of weights, but not their index (*.index.json): download the whole folder."
    if len(several) > 1:
        return f"{path} holds several files of weights ({first_few(several, ', ')}): give one of them."
    if path.is_dir() and _model_type(path):
        return f"{path} holds a model of type {_model_type(path)!r}: supported models of transformers are {kinds}."
    return (
        f"{path} has an unknown format: give a state dict ({', '.join((*SAFETENSORS, *TORCH))}), a folder with "
        f"{open_clip.CONFIG}, or a folder of transformers ({kinds})."
    )
