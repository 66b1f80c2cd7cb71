"""Read PyTorch's files without PyTorch, and without running code from the file.

``torch.save`` and ``torch.jit.save`` write a zip archive: ``NAME/data.pkl``, a pickle of the containers, and
``NAME/data/KEY``, the bytes of each storage. A pickle is a program that may call any function of any module.
This reader allows only the names that build tensors: containers, and passive classes for storages and TorchScript
modules. A file with any other name is rejected.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from rankclip_jax.errors import UserError

# Name of torch's storage class: dtype of its elements.
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Keys under which training programs store the weights in a checkpoint.
NESTED = ("state_dict", "model_state_dict", "model")
SCRIPTED = "__torch__"  # the module of every class in a TorchScript archive


class Storage(NamedTuple):
    """A reference to elements in the archive, which are not read yet."""

    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """A strided view of a storage, which is read later if it is a weight. An optimizer's moments are never read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class ScriptedModule:
    """The attributes of a TorchScript module, without its code."""

    def __init__(self):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Read the state dict in a file of ``torch.save`` or ``torch.jit.save``.

    A training checkpoint has its weights under one of the keys in `NESTED`. The prefix ``module.`` of data-parallel
    training is removed.

    Raises:
      UserError: PyTorch 1.6 or newer did not write the file, or it is truncated or holds code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive, path)
            tensors = dict(_named_tensors(_unpickle(archive, root, path)))
            if not tensors:
                raise UserError(f"{path} holds no named tensors: give a file with a model's state dict.")
            return {name: _read(archive, root, tensor, path) for name, tensor in _unwrapped(tensors).items()}
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(_not_an_archive(path, error)) from error


def _not_an_archive(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return f"{path} is truncated or damaged ({error}): download it again."
    if start[:1] == b"\x80":
        return (
            f"{path} has PyTorch's format before version 1.6, which is not supported: load and save it with a newer "
            "torch, or convert it to safetensors."
        )
    return f"{path} was not written by torch.save: give .pt, .pth, .bin or .safetensors weights."


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """The top folder of the archive."""
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UserError(f"{path} is a zip archive, but was not written by torch.save (it has no data.pkl).")
    entries = [entry for entry in archive.infolist() if entry.filename.startswith(f"{roots[0]}/data")]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        # torch does not compress them, and a compressed entry may unpack to any size.
        raise UserError(f"{path} holds compressed tensors, which torch.save does not write: download it again.")
    order = f"{roots[0]}/byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise UserError(f"{path} was written on a big-endian machine: convert it to safetensors there.")
    return roots[0]


class _Unpickler(pickle.Unpickler):
    """An unpickler that can call only the functions below."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, encoding="utf-8")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == SCRIPTED or module.startswith(f"{SCRIPTED}."):
            return ScriptedModule
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise UserError(
            f"{self._path} refers to {module}.{name}, which is not part of a tensor: files with code are not read. If "
            "you trust the file, convert its weights to safetensors."
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        return Storage(str(key), np.dtype(dtype), int(count))


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _first(first: Any, *_: Any) -> Any:
    return first


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): _first,
}


def _unpickle(archive: zipfile.ZipFile, root: str, path: Path) -> Any:
    try:
        with archive.open(f"{root}/data.pkl") as file:
            return _Unpickler(file, path).load()
    except (UserError, zipfile.BadZipFile):
        raise
    except Exception as error:  # a damaged pickle can raise any type
        raise UserError(f"{path} is damaged: its data.pkl cannot be read ({error}).") from error


def _named_tensors(found: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) of a state dict, of a training checkpoint's state dict, or of a scripted module."""
    if isinstance(found, ScriptedModule):
        for name, value in found.attributes.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, ScriptedModule):
                yield from _named_tensors(value, f"{prefix}{name}.")
        return
    if not isinstance(found, Mapping):
        return
    inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), found)
    yield from ((name, value) for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor))


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapped = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in tensors.items()}


def _read(archive: zipfile.ZipFile, root: str, tensor: Tensor, path: Path) -> np.ndarray:
    """Read the elements of a tensor. Reading outside its storage is an error."""
    storage, size = tensor.storage, math.prod(tensor.shape)
    entry = archive.getinfo(f"{root}/data/{storage.key}")
    nbytes = storage.count * storage.dtype.itemsize
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=False))
    valid = (
        entry.file_size >= nbytes
        and len(tensor.shape) == len(tensor.strides)
        and min((*tensor.shape, *tensor.strides, tensor.offset), default=0) >= 0
        and size <= storage.count
        and (size == 0 or last < storage.count)
    )
    if not valid:
        raise UserError(f"{path} is damaged: a tensor of shape {list(tensor.shape)} exceeds its storage.")
    flat = np.frombuffer(archive.read(entry), storage.dtype, storage.count)
    strides = [step * storage.dtype.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()
