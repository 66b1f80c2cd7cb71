"""Many strings in two arrays: a table of millions of captions without an object for each."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


class Strings(Sequence[bytes]):
    """n strings as the bytes they are in the file, whatever their encoding.

    Args:
      data: all of them, one after the other.
      ends: int64 [n + 1], where each begins and the next one does.
    """

    def __init__(self, data: bytes | memoryview, ends: np.ndarray):
        self._data, self._ends = memoryview(data), ends

    @classmethod
    def of(cls, texts: Iterable[str | bytes]) -> "Strings":
        """From Python's strings; what is no Unicode in them (surrogates) becomes the bytes it came from."""
        parts = [text if isinstance(text, bytes) else _encoded(text) for text in texts]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(b"".join(parts), ends)

    def arrow(self) -> "pa.LargeBinaryArray":
        """The same for pyarrow, without a copy."""
        import pyarrow as pa

        ends = np.ascontiguousarray(self._ends)
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self), [None, pa.py_buffer(ends), pa.py_buffer(self._data)]
        )

    @classmethod
    def of_arrow(cls, column: "pa.Array | pa.ChunkedArray") -> "Strings":
        """From a pyarrow (chunked) array of strings or binaries; null is ""."""
        import pyarrow as pa

        chunks = [chunk.cast(pa.large_binary()) for chunk in getattr(column, "chunks", [column])]
        parts, lengths = [], [np.zeros(1, np.int64)]
        for chunk in chunks:
            ends = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            data = memoryview(chunk.buffers()[2] or b"")[ends[0] : ends[-1]] if len(chunk) else b""
            parts.append(data)
            lengths.append(np.diff(ends))
        return cls(b"".join(parts), np.cumsum(np.concatenate(lengths)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._data[self._ends[index] : self._ends[index + 1]])

    def text(self, index: int) -> str:
        """For names of files: what is no Unicode stays as the file system has it."""
        return self[index].decode("utf-8", "surrogateescape")

    def update(self, sha: "hashlib._Hash") -> None:
        """Add the content to a digest."""
        sha.update(np.ascontiguousarray(self._ends - self._ends[0]))
        sha.update(self._data)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, which JSON can hold: no UTF-8, as `captions_of` will find
        return text.encode("utf-8", "surrogatepass")


class StringLists:
    """A list of strings for each of n records.

    Args:
      values: all strings.
      owners: int [len(values)], to which record each belongs; the lists keep the order of `values`.
      count: n; a record that owns nothing has an empty list.
    """

    def __init__(self, values: Strings, owners: np.ndarray, count: int):
        self._values = values
        is_sorted = bool((np.diff(owners) >= 0).all())
        self._order = None if is_sorted else np.argsort(owners, kind="stable")
        self._starts = np.searchsorted(owners if is_sorted else owners[self._order], np.arange(count + 1))

    def __getitem__(self, index: int) -> list[bytes]:
        rows = range(self._starts[index], self._starts[index + 1])
        return [self._values[row if self._order is None else self._order[row]] for row in rows]

    def counts(self) -> np.ndarray:
        """int [n], strings of each record."""
        return np.diff(self._starts)

    def update(self, sha: "hashlib._Hash") -> None:
        """Add the content to a digest."""
        self._values.update(sha)
        for array in (self._starts, self._order):
            sha.update(b"" if array is None else np.ascontiguousarray(array))
