"""Named tensors from files of any of the formats that weights come in, as numpy arrays."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (numpy learns bfloat16 from it)
import numpy as np
from safetensors import SafetensorError, safe_open

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.torch_pickle import read_torch_file

Tensors = dict[str, np.ndarray]

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt")


def read_tensors(path: Path) -> Tensors:
    """Read a weights file, or the shards that an index (``*.index.json``) names.

    Raises:
      UserError: missing, cut short, damaged, of another format, or holding code.
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
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, TypeError) as error:
        raise UserError(f"{path} is cut short or damaged ({error}): get it again.") from error


def _read_shards(index: Path) -> Tensors:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{index} is no index of weights: it has no weight_map.")
    tensors: Tensors = {}
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is not a file beside it.")
        tensors |= read_tensors(index.parent / name)
    missing = sorted(set(where) - set(tensors))
    if missing:
        raise UserError(f"{index} promises {missing[0]!r}, which none of its files has: get them again.")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      UserError: missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path.name} in {path.parent}: get the whole folder.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): get it again.")
    return found


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
