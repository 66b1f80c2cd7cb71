"""Reads parts of many local files, from many threads.

A file is opened at its first read and stays open. If too many files are open, the least recently used one is closed.
``pread`` uses no shared file position, so threads and forked processes do not disturb each other.

Pipes and devices such as ``/dev/zero`` are refused: reading them may never end.
"""

import errno
import os
import resource
import stat
import threading
from collections import OrderedDict

MAX_OPEN = 4096


class _Descriptor:
    """Closed with its last reference: a thread can finish reading after `_Descriptors` has dropped it."""

    def __init__(self, handle: int):
        self.handle = handle

    def __del__(self, close=os.close):
        close(self.handle)


class _Descriptors:
    """Open files by path, the least recently used first."""

    def __init__(self, limit: int):
        self.limit = limit
        self.lock = threading.Lock()
        self.open: OrderedDict[str, _Descriptor] = OrderedDict()

    def get(self, path: str) -> _Descriptor:
        with self.lock:
            if path in self.open:
                self.open.move_to_end(path)
                return self.open[path]
        check_regular(path)
        opened = _Descriptor(os.open(path, os.O_RDONLY))  # without the lock, because a network file system can be slow
        with self.lock:
            opened = self.open.setdefault(path, opened)
            while len(self.open) > self.limit:
                self.open.popitem(last=False)
        return opened


def _limit() -> int:
    """Half of the files that this process may open; other code may open the rest."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN if allowed < 0 else max(16, min(MAX_OPEN, allowed // 2))


def _begin() -> None:
    global _descriptors
    _descriptors = _Descriptors(_limit())


_begin()
os.register_at_fork(after_in_child=_begin)  # a thread that does not exist in the child may hold the lock


def check_regular(path: str) -> int:
    """Return the size of a file; `OSError` if it is missing, or no regular file."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", path)
    return found.st_size


def read(path: str, limit: int | None = None) -> bytes:
    """The whole file; `OSError` if it has more than `limit` bytes."""
    size = check_regular(path)
    if limit is not None and size > limit:
        raise OSError(f"{path} has {size:,} bytes, more than the limit of {limit:,}")
    with open(path, "rb") as file:
        return file.read(-1 if limit is None else limit)


def read_range(path: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`; fewer at the end of the file."""
    descriptor = _descriptors.get(path)
    data = os.pread(descriptor.handle, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]  # a signal interrupted the call, or the system does not read that much at once
    while data:
        offset, length = offset + len(data), length - len(data)
        data = os.pread(descriptor.handle, length, offset)
        parts.append(data)
    return b"".join(parts)


def stamp(path: str) -> tuple[int, str]:
    """Size in bytes, and time of the last change in nanoseconds, as text."""
    status = os.stat(path)
    return status.st_size, str(status.st_mtime_ns)


def forget(path: str) -> None:
    """Drop the open descriptor: the next read opens `path` again, as the file may have been replaced."""
    with _descriptors.lock:
        _descriptors.open.pop(path, None)
