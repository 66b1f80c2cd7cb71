"""Read PyTorch's files without PyTorch, and without running code from the file.

``torch.save`` and ``torch.jit.save`` write a zip archive: ``NAME/data.pkl``, a pickle of the containers, and
``NAME/data/KEY``, the bytes of each storage. Before PyTorch 1.6, ``torch.save`` wrote five pickles, and then the
storages one after another.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.inert_pickle import Storage, Tensor, unpickle
from rankclip_jax.weights.formats.state_dicts import named_tensors

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Tied weights share a storage. Tensors that together are larger than this multiple of it overlap for no good reason.
LARGEST_OVERLAP = 4


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Read the state dict in a zip archive; the arrays are read-only.

    Raises:
      UserError: the file is truncated or damaged, holds no state dict, or code in its place.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive, path)
            with archive.open(f"{root}/data.pkl") as file:
                tensors = named_tensors(unpickle(file, path), path)

            def read(storage: Storage) -> bytes:
                return archive.read(f"{root}/data/{storage.key}")

            return _arrays(tensors, read, path)
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): download it again.") from error


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


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """`read_zip` for the format before PyTorch 1.6."""
    storages: dict[str, Storage] = {}
    with path.open("rb") as file:
        _check_magic(file, path)
        unpickle(file, path)  # the version of the format
        machine = unpickle(file, path)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise UserError(f"{path} was written on a big-endian machine: convert it to safetensors there.")
        tensors = named_tensors(unpickle(file, path, storages), path)
        offsets = _legacy_offsets(file, unpickle(file, path), storages, path)

        def read(storage: Storage) -> bytes:
            start, size = offsets[storage.key]
            file.seek(start)
            return file.read(size)

        return _arrays(tensors, read, path)


def _check_magic(file: io.BufferedReader, path: Path) -> None:
    """Read the first pickle of the format. Files of ``pickle.dump`` begin with their whole content."""
    start = io.BytesIO(file.read(64))
    try:
        magic = unpickle(start, path)
    except UserError:
        magic = None
    if magic != LEGACY_MAGIC:
        raise UserError(
            f"{path} is a pickle that torch.save did not write: save the model's state_dict() with torch.save or as "
            ".safetensors."
        )
    file.seek(start.tell())


def _legacy_offsets(
    file: io.BufferedReader, keys: Any, storages: Mapping[str, Storage], path: Path
) -> dict[str, tuple[int, int]]:
    """Where the bytes of each storage begin, and how many they are. Their number of elements, int64, precedes them."""
    offsets, end = {}, path.stat().st_size
    for key in keys if isinstance(keys, list) else ():
        header = file.read(8)
        if str(key) not in storages or len(header) < 8:
            break
        size = int.from_bytes(header, "little") * storages[str(key)].dtype.itemsize
        offsets[str(key)] = (file.tell(), size)
        if file.tell() + size > end:
            break
        file.seek(size, io.SEEK_CUR)
    else:
        if set(storages) <= set(offsets):
            return offsets
    raise UserError(f"{path} is truncated or damaged (a storage is missing): download it again.")


def _arrays(tensors: Mapping[str, Tensor], read: Callable[[Storage], bytes], path: Path) -> dict[str, np.ndarray]:
    """Views of the storages, each of which is read once."""
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents = {key: read(storage) for key, storage in storages.items()}
    views = {name: _view(tensor, contents[tensor.storage.key], path) for name, tensor in tensors.items()}
    stored, viewed = sum(map(len, contents.values())), sum(view.nbytes for view in views.values())
    if viewed > LARGEST_OVERLAP * stored:
        raise UserError(f"{path} is damaged: its tensors overlap ({viewed:,} bytes of tensors in {stored:,} stored).")
    return views


def _view(tensor: Tensor, content: bytes, path: Path) -> np.ndarray:
    """The elements of a tensor. Elements outside its storage are an error."""
    storage, size = tensor.storage, math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=False))
    valid = (
        len(content) >= storage.count * storage.dtype.itemsize
        and len(tensor.shape) == len(tensor.strides)
        and min((*tensor.shape, *tensor.strides, tensor.offset, storage.count), default=0) >= 0
        and size <= storage.count
        and (size == 0 or last < storage.count)
    )
    if not valid:
        raise UserError(f"{path} is damaged: a tensor of shape {list(tensor.shape)[:8]} exceeds its storage.")
    flat = np.frombuffer(content, storage.dtype, storage.count)
    strides = [step * storage.dtype.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
