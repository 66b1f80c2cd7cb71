"""A cache of one record per thread."""

import threading
from collections.abc import Callable
from typing import Any


class LastRead:
    """Keeps the record read last, for each thread, so that its image and its captions are one read.

    Args:
      read: gives the record of an index.
    """

    def __init__(self, read: Callable[[int], Any]):
        self._read, self._last = read, threading.local()

    def __getitem__(self, index: int) -> Any:
        known, record = getattr(self._last, "record", (None, None))
        if known != index:
            record = self._read(index)
            self._last.record = index, record
        return record
