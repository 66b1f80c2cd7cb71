"""Read weights files of every supported format as numpy arrays by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (adds bfloat16 to numpy)
import numpy as np
from safetensors import SafetensorError, safe_open

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.torch_pickle import read_torch_file

Tensors = dict[str, np.ndarray]

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt")


def read_tensors(path: Path) -> Tensors:
    """Read a weights file, or the shards that an index (``*.index.json``) lists.

    Raises:
      UserError: the file is missing, truncated, damaged, of another format, or holds code.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if not path.is_file():
        raise UserError(f"no weights at {path}: check the path.")
    if path.suffix in SAFETENSORS:
        return _read_safetensors(path)
    return read_torch_file(path)


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, TypeError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): download it again.") from error


def _read_shards(index: Path) -> Tensors:
    file_of_tensor = read_json(index).get("weight_map")
    if not isinstance(file_of_tensor, dict) or not file_of_tensor:
        raise UserError(f"{index} is not an index of weights: it has no weight_map.")
    tensors: Tensors = {}
    for name in sorted(set(file_of_tensor.values())):
        if Path(name).name != name:
            raise UserError(f"{index} lists {name!r}, which is not a file in the same folder.")
        tensors |= read_tensors(index.parent / name)
    missing = sorted(set(file_of_tensor) - set(tensors))
    if missing:
        raise UserError(f"{index} lists the tensor {missing[0]!r}, but no file holds it: download the files again.")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path.name} in {path.parent}: download the whole folder.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): download it again.")
    return found


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that exists in `folder`, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
