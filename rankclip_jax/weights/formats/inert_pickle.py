"""Unpickle without running code from the file.

A pickle is a program that may call any function of any module. This reader imports nothing that a file names: the
names that build tensors stand for the functions below, and every other name stands for a passive object that records
what it was given (`Inert`). Optimizers, arguments and paths beside the weights are read like this and then ignored.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
    "UntypedStorage": np.uint8,
}
# Names with no place in a checkpoint. They would not be run either, but a file that refers to them is an attack.
ATTACKS = ("os", "posix", "nt", "subprocess", "pty", "socket", "shutil", "runpy", "importlib", "ctypes", "sys")
ATTACK_NAMES = ("eval", "exec", "compile", "__import__", "open")
# Bytes. The names and numbers beside the tensors need 1 MB or less; a byte can become an object of 200 bytes.
PICKLE_LIMIT = 6 << 20
# Functions that build tensors which are not read: what they build.
UNREADABLE = {
    "torch._utils._rebuild_tensor_v3": "a tensor of a type such as fp8",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values",
}


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


class Inert:
    """An object of a class that is not imported; `attributes` is its state.

    Attributes:
      origin: module and name of the class or function in the file.
      attributes: state of the object, if it is a dictionary.
    """

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *_: Any, **__: Any):
        pass

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return type(self)()

    def set_state(self, state: Any) -> None:
        """Keep the attributes. The state of a class with slots is (attributes, slots)."""
        state = state[0] if isinstance(state, tuple) and state else state
        self.attributes = dict(state) if isinstance(state, dict) else {}

    def _ignore(self, *_: Any) -> None:
        """Elements of a list, set or dictionary of an unknown class are dropped."""

    append = extend = add = update = __setitem__ = _ignore


class Ordered(dict):
    """An OrderedDict."""

    def __init__(self, items: Any = ()):
        super().__init__()
        for key, value in items.items() if isinstance(items, dict) else items:
            self[checked_key(key)] = value


def checked_key(key: Any) -> Any:
    """A key of a dictionary or set. Python's hash of deeply nested tuples overflows the stack of the process."""
    parts = key if type(key) is tuple else (key,)
    if not all(part is None or isinstance(part, str | bytes | int | float | Inert) for part in parts):
        raise pickle.UnpicklingError("a key is not a plain value")
    return key


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _first(first: Any, *_: Any) -> Any:
    return first


def _rebuilt(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """A tensor of a subclass, as the plain tensor that it was made from."""
    if function not in (_tensor, _first):
        return Inert()
    return function(*args)


def _reconstructed(cls: Any, *_: Any) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise pickle.UnpicklingError("an object of an unexpected class")
    return cls()


ALLOWED: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuilt,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("copy_reg", "_reconstructor"): _reconstructed,
}


class _Limited:
    """A file that can be read up to `PICKLE_LIMIT` bytes."""

    def __init__(self, file: Any):
        self._file, self._left = file, PICKLE_LIMIT

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise pickle.UnpicklingError(f"more than {PICKLE_LIMIT >> 20} MB of objects beside the tensors")
        return data

    def read(self, size: int = -1) -> bytes:
        limit = self._left + 1
        return self._counted(self._file.read(limit if size < 0 else min(size, limit)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))


class Unpickler(pickle._Unpickler):  # in Python: its methods can be overridden, and it allocates no more than it reads
    """An unpickler that can call only the functions of `ALLOWED`."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, path: Path):
        super().__init__(_Limited(file), encoding="utf-8")
        self._path = path
        self._classes: dict[tuple[str, str], type[Inert]] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return np.dtype(STORAGES[name])
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        builtin = module in ("builtins", "__builtin__") and name in ATTACK_NAMES
        if builtin or module.split(".")[0] in ATTACKS:
            raise UserError(code_message(self._path, f"{module}.{name}"))
        made = type("Inert", (Inert,), {"origin": f"{module}.{name}"})
        return self._classes.setdefault((module, name), made)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a whole model in the format before PyTorch 1.6, with the source of its class
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or any(one is not None for one in view):
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        if not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("a storage of an unknown type")
        storage = Storage(str(key), dtype, int(count))
        return self.storages.setdefault(storage.key, storage)

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].set_state(state)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({checked_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][checked_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][checked_key(key)] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(checked_key, items))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(checked_key, self.pop_mark())))

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("an instruction that torch.save does not write")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.BYTEARRAY8[0]] = load_refused  # would allocate any size


def code_message(path: Path, origin: str) -> str:
    """The error for a file that has something else where a plain tensor belongs."""
    if origin in UNREADABLE:
        return f"{path} holds {UNREADABLE[origin]}: give weights in float32, float16 or bfloat16."
    return (
        f"{path} refers to {_printable(origin)}, which is not part of a tensor: files with code are not read. Save the "
        "model's state_dict() alone, or convert it to safetensors."
    )


def _printable(text: str) -> str:
    return text[:100].encode("unicode_escape").decode()


def unpickle(file: Any, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    """Read one pickle of an open file.

    Args:
      path: for messages.
      storages: filled with every storage that the pickle refers to.

    Raises:
      UserError: it is damaged, too large, or refers to code.
    """
    try:
        unpickler = Unpickler(file, path)
        found = unpickler.load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise any type
        reason = _printable(str(error)) or type(error).__name__
        raise UserError(f"{path} is damaged: its data.pkl cannot be read ({reason}).") from error
    if storages is not None:
        storages |= unpickler.storages
    return found
