"""Parts of many local files, read from many threads.

A descriptor is opened when its file is first read and kept; the one unused for longest is closed when there
are many. ``pread`` moves no shared position, so threads and forked processes do not disturb each other.
"""

import os
import threading
from collections import OrderedDict

try:
    import resource
except ImportError:  # no such module, and no such limit, on Windows
    resource = None

MAX_OPEN = 4096


class _Descriptor:
    """Closed when nobody refers to it: one that is dropped here while a thread reads stays open until then."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close=os.close):
        if hasattr(self, "number"):
            close(self.number)


class _Descriptors:
    """Open files, the one used last at the end."""

    def __init__(self, limit: int):
        self.limit = limit
        self.lock = threading.Lock()
        self.open: OrderedDict[str, _Descriptor] = OrderedDict()

    def get(self, path: str) -> _Descriptor:
        with self.lock:
            if path in self.open:
                self.open.move_to_end(path)
                return self.open[path]
        opened = _Descriptor(path)  # not under the lock: a network's file system may take its time
        with self.lock:
            opened = self.open.setdefault(path, opened)
            while len(self.open) > self.limit:
                self.open.popitem(last=False)
        return opened


def _limit() -> int:
    """Half of what the system allows this process; the rest is for everybody else in it."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 512
    return MAX_OPEN if allowed < 0 else max(16, min(MAX_OPEN, allowed // 2))


def _begin() -> None:
    global _descriptors
    _descriptors = _Descriptors(_limit())


_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)  # the lock may have been taken by a thread that the child lacks


def read(path: str) -> bytes:
    """The whole file."""
    with open(path, "rb") as file:
        return file.read()


def read_range(path: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`; fewer where the file ends."""
    descriptor = _descriptors.get(path)
    data = os.pread(descriptor.number, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]  # a signal, or more than the system reads at once
    while data:
        offset, length = offset + len(data), length - len(data)
        data = os.pread(descriptor.number, length, offset)
        parts.append(data)
    return b"".join(parts)


def stamp(path: str) -> tuple[int, str]:
    """Size in bytes, and the time of the last change in nanoseconds as text."""
    found = os.stat(path)
    return found.st_size, str(found.st_mtime_ns)


def forget(path: str) -> None:
    """Let go of a file, so that the next read opens what is there then."""
    with _descriptors.lock:
        _descriptors.open.pop(path, None)
