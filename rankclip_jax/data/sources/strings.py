"""Millions of strings in one pyarrow array: their text and 8 bytes each, without Python objects.

A string is the bytes in its file, in any encoding.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def packed(texts: Iterable[str | bytes]) -> pa.LargeBinaryArray:
    """Pack Python strings. A surrogate that stands for a byte, as in file names, becomes that byte."""
    return pa.array([text if isinstance(text, bytes) else _encoded(text) for text in texts], pa.large_binary())


def packed_column(column: pa.Array | pa.ChunkedArray) -> pa.LargeBinaryArray:
    """A column of strings or binaries as one array; null becomes ""."""
    column = column.cast(pa.large_binary())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.fill_null(column, b"")


def text_of(array: pa.LargeBinaryArray, index: int) -> str:
    """One string as a file name: bytes that are not UTF-8 become surrogates, as in Python's `os`."""
    return array[index].as_py().decode("utf-8", "surrogateescape")


def grouped(values: pa.LargeBinaryArray, owners: np.ndarray, count: int) -> pa.LargeListArray:
    """The strings of each of `count` records, in the order of `values`; `owners`, int [n]: the record of each one."""
    if (np.diff(owners) < 0).any():
        order = np.argsort(owners, kind="stable")
        values, owners = values.take(pa.array(order)), owners[order]
    return pa.LargeListArray.from_arrays(np.searchsorted(owners, np.arange(count + 1)), values)


def update(sha: "hashlib._Hash", array: pa.LargeBinaryArray | pa.LargeListArray) -> None:
    """Add the strings of an array, or of its lists, to a digest."""
    if pa.types.is_large_list(array.type):
        update(sha, array.values)
    _, offsets, *data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if pa.types.is_large_binary(array.type):
        sha.update(ends - ends[0])
        sha.update(memoryview(data[0] or b"")[ends[0] : ends[-1]])
    else:
        sha.update(ends)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, possible in JSON: `captions_of` rejects it
        return text.encode("utf-8", "surrogatepass")
