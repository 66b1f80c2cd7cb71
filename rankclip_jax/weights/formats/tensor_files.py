"""Read weights files of every supported format as numpy arrays by name."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (adds bfloat16 to numpy)
import numpy as np
from safetensors import safe_open

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.state_dicts import without_prefixes
from rankclip_jax.weights.formats.torch_files import read_legacy, read_zip

Tensors = dict[str, np.ndarray]

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt")
# Other formats, by their first bytes.
OTHERS = {
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a file of numpy.save",
    b"\x1f\x8b": "a gzip archive",
}
# Types of safetensors that numpy has. fp8 and fp4 weights have scales beside them, in ways that differ by library.
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def read_tensors(path: Path) -> Tensors:
    """Read a weights file, or the shards that an index (``*.index.json``) lists, without the prefixes of wrappers.

    The content decides on the format, whatever the suffix.

    Raises:
      UserError: the file is missing, truncated, damaged, of another format, or holds code.
    """
    return without_prefixes(_read_shards(path) if is_index(path) else _read_file(path), path)


def is_index(path: Path) -> bool:
    """Whether `path` is named like an index of shards: ``model.safetensors.index.json``, also with ".fp16" in it."""
    return ".index." in path.name and path.suffix == ".json"


def _read_file(path: Path) -> Tensors:
    if not path.is_file():
        raise UserError(f"no weights at {path}: check the path.")
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return read_zip(path)
    if start[8:9] == b"{":  # after the length of the header
        return _read_safetensors(path)
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # a pickle of this protocol
        return read_legacy(path)
    raise UserError(_not_weights(path, start))


def _not_weights(path: Path, start: bytes) -> str:
    """The error for a file that has none of the formats."""
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS instead of the weights: run 'git lfs pull' in its folder."
    if start.lstrip()[:1] == b"<":
        return f"{path} is a web page instead of weights: download the file again, from its direct address."
    if not start.strip(b"\0"):
        return f"{path} is empty: download it again."
    known = next((name for magic, name in OTHERS.items() if start.startswith(magic)), None)
    if known is not None:
        return f"{path} is {known}, which is not supported: give weights as .safetensors, or as a file of torch.save."
    return f"{path} is truncated or damaged, or was not written by torch.save: download it again."


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            types = {name: file.get_slice(name).get_dtype() for name in names}
            unknown = next((name for name in names if types[name] not in DTYPES), None)
            if unknown is None:
                return {name: file.get_tensor(name) for name in names}
    except Exception as error:  # a damaged file can raise any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or damaged ({reason[:200]}): download it again.") from error
    raise UserError(
        f"{path}: {unknown} has the type {types[unknown]}, which is not supported: give weights in float32, float16 or "
        "bfloat16."
    )


def _read_shards(index: Path) -> Tensors:
    file_of_tensor = read_json(index).get("weight_map")
    if not isinstance(file_of_tensor, dict) or not file_of_tensor:
        raise UserError(f"{index} is not an index of weights: it has no weight_map.")
    tensors: Tensors = {}
    for name in sorted(set(map(str, file_of_tensor.values()))):
        if Path(name).name != name or Path(name).suffix == ".json":
            raise UserError(f"{index} lists {name!r}, which is not a weights file in the same folder.")
        tensors |= _read_file(index.parent / name)
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
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is damaged ({str(error)[:200]}): download it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): download it again.")
    return found


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that exists in `folder`, or else of their variants (``model.fp16.safetensors``), or None."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is not None or not folder.is_dir():
        return found
    for name in names:
        stem, _, suffix = name.partition(".")
        variants = [re.compile(rf"{stem}\.(\w+)\.{re.escape(suffix)}")]
        variants += (
            [re.compile(rf"{re.escape(name.removesuffix('.json'))}\.(\w+)\.json")] if is_index(Path(name)) else []
        )
        for path in sorted(folder.iterdir()):
            if any(variant.fullmatch(path.name) for variant in variants):
                return path
    return None


def lone_file(folder: Path) -> Path | None:
    """The weights file of a folder that has only one, whatever its name, or None."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in (*SAFETENSORS, *TORCH)]
    return found[0] if len(found) == 1 else None
