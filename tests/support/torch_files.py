"""Write files in the format of ``torch.save`` and ``torch.jit.save``, without torch."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "int64": "LongStorage"}


class Global:
    """Pickled as a reference to a name in a module, which need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):  # pickle requires a callable
        raise AssertionError


class Call:
    """Pickled as a call of a global."""

    def __init__(self, function: Global, *args: Any):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Scripted:
    """Pickled as a TorchScript module: an object with attributes, of a class that its archive defines."""

    def __init__(self, kind: str, **attributes: Any):
        self.kind, self.attributes = Global("__torch__", kind), attributes


class Instance:
    """Pickled as an object of any class, with attributes."""

    def __init__(self, kind: Global, attributes: Mapping[str, Any]):
        self.kind, self.attributes = kind, dict(attributes)


class _Storage:
    def __init__(self, key: str, array: np.ndarray, count: int):
        self.pid = ("storage", Global("torch", STORAGES[array.dtype.name]), key, "cpu", count)


class _Pickler(pickle._Pickler):  # the Python implementation, whose methods can be overridden
    legacy = False

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        return (*obj.pid, None) if self.legacy else obj.pid  # once with a view of another storage

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Scripted | Instance):
            self.save(obj.kind)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(obj.attributes)
            self.write(pickle.BUILD)
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


class Archive:
    """A zip archive of tensors and a pickle that refers to them."""

    def __init__(self):
        self.storages: list[np.ndarray] = []

    def tensor(self, array: np.ndarray, shape=None, strides=None, offset: int = 0, count: int | None = None) -> Call:
        """Add a tensor; shape, strides, offset and the storage's element count may be overridden."""
        array = np.asarray(array)
        storage = _Storage(str(len(self.storages)), array, array.size if count is None else count)
        self.storages.append(np.ascontiguousarray(array))
        shape = array.shape if shape is None else shape
        strides = tuple(step // array.itemsize for step in array.strides) if strides is None else strides
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        return Call(rebuild, storage, offset, tuple(shape), strides, False, OrderedDict())

    def write(self, path: Path, content: Any, compression: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(path, "w", compression) as file:
            with file.open("archive/data.pkl", "w") as pickled:
                _Pickler(pickled, protocol=2).dump(content)
            for key, array in enumerate(self.storages):
                file.writestr(f"archive/data/{key}", array.tobytes())
            file.writestr("archive/version", "3\n")
        return path

    def write_legacy(self, path: Path, content: Any) -> Path:
        """Write the format before PyTorch 1.6: magic number, version, machine, content, keys, storages."""
        keys = [str(key) for key in range(len(self.storages))]
        with path.open("wb") as file:
            for one in (LEGACY_MAGIC, 1001, {"little_endian": True, "type_sizes": {"int": 4}}, content, keys):
                pickler = _Pickler(file, protocol=2)
                pickler.legacy = True
                pickler.dump(one)
            for array in self.storages:
                file.write(array.size.to_bytes(8, "little") + array.tobytes())
        return path


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a state dict."""
    archive = Archive()
    return archive.write(path, OrderedDict((name, archive.tensor(array)) for name, array in arrays.items()))
