"""Parquet files, local or remote, by random access.

Parquet is read one group of rows at a time. Captions are kept once read; of the images the groups used last
are kept, up to `CACHE_BYTES`. Small files fit; of large ones each image drawn at random costs its whole group,
which a warning says: convert them once.
"""

import hashlib
import io
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.cells import pairs_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

LOG = logging.getLogger(__name__)
CACHE_BYTES = 512 << 20
LARGE_GROUP = 16 << 20  # bytes at which reading a group for one image is worth a warning
LOCKS = 64
FOOTER = 8  # bytes at the end: length of the metadata, and a mark


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open Parquet files.

    Raises:
      UserError: a file is missing or damaged, its columns are other ones, or there are no rows.
    """
    return pairs_of(ParquetCells(files), options.image_root or os.path.dirname(files[0]), options, files[0])


class ParquetCells:
    """See `Cells`.

    Args:
      files: paths or URLs.
      cache_bytes: memory for groups of images; at least one group is kept, whatever its size.
    """

    def __init__(self, files: Sequence[str], cache_bytes: int = CACHE_BYTES):
        self._files, self._limit = tuple(files), cache_bytes
        self._metadata = [_metadata(file) for file in files]
        self.schema = self._metadata[0].schema.to_arrow_schema()
        for file, metadata in zip(files, self._metadata, strict=True):
            names = metadata.schema.to_arrow_schema().names
            if names != self.schema.names:
                raise UserError(f"{file} has columns {names}, {files[0]} has {self.schema.names}: read them apart.")
        groups = [
            (f, g, m.row_group(g).num_rows) for f, m in enumerate(self._metadata) for g in range(m.num_row_groups)
        ]
        self._groups = [(f, g) for f, g, _ in groups]
        self._starts = np.cumsum([0, *(rows for *_, rows in groups)])
        self._file_starts = np.cumsum([0, *(m.num_rows for m in self._metadata)])
        self._kept: dict[tuple[str, int], pa.Array] = {}
        self._recent: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()
        self._lock, self._group_locks = threading.Lock(), [threading.Lock() for _ in range(LOCKS)]
        self._warned = False

    def __len__(self) -> int:
        return int(self._starts[-1])

    def cell(self, column: str, index: int) -> Any:
        group, row = self._place(index)
        with self._group_locks[group % LOCKS]:
            if (column, group) not in self._kept:
                self._kept[column, group] = self._read(column, group)
        return self._kept[column, group][row].as_py()

    def large_cell(self, column: str, index: int) -> Any:
        group, row = self._place(index)
        with self._group_locks[group % LOCKS]:  # so that two threads do not read the same one
            values = self._recent.get((column, group))
            if values is None:
                values = self._read(column, group)
                self._warn_once(values.nbytes)
            self._remember((column, group), values)
        return values[row].as_py()

    def whole(self, column: str) -> pa.ChunkedArray:
        return pa.chunked_array([self._read(column, group) for group in range(len(self._groups))])

    def name(self, index: int) -> str:
        file = int(np.searchsorted(self._file_starts, index, "right")) - 1
        return f"{os.path.basename(self._files[file])}:{index - self._file_starts[file]}"

    def digest(self) -> str:
        """Of the files' metadata, which hold sizes, and smallest and largest values, of every column."""
        sha = hashlib.sha256()
        for file in self._files:
            size = locations.size(file)
            footer = int.from_bytes(locations.read_range(file, size - FOOTER, 4), "little")
            sha.update(locations.read_range(file, size - FOOTER - footer, footer))
        return sha.hexdigest()

    def _place(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, index, "right")) - 1
        return group, int(index - self._starts[group])

    def _read(self, column: str, group: int) -> pa.Array:
        file, number = self._groups[group]
        # A handle of its own for every read: one handle is not for several threads.
        opened = pq.ParquetFile(_source(self._files[file]), metadata=self._metadata[file])
        with opened:
            return pa.concat_arrays(opened.read_row_group(number, columns=[column], use_threads=False).column(0).chunks)

    def _remember(self, key: tuple[str, int], values: pa.Array) -> None:
        with self._lock:
            self._recent[key] = values
            self._recent.move_to_end(key)
            while len(self._recent) > 1 and sum(kept.nbytes for kept in self._recent.values()) > self._limit:
                self._recent.popitem(last=False)

    def _warn_once(self, group_bytes: int) -> None:
        if self._warned or group_bytes < LARGE_GROUP or group_bytes * len(self._groups) < self._limit:
            return
        self._warned = True
        LOG.warning(
            "%s: each image drawn at random reads a group of %d MB. Convert the files once, by "
            "`python -m rankclip_jax.data convert`, or write them with groups of 100 rows.",
            self._files[0],
            group_bytes >> 20,
        )


class _RemoteFile(io.RawIOBase):
    """The few calls that pyarrow makes of a file, as ranges of a URL."""

    def __init__(self, url: str):
        self._url, self._size, self._at = url, locations.size(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        rest = self._size - self._at
        data = locations.read_range(self._url, self._at, rest if size < 0 else min(size, rest))
        self._at += len(data)
        return data


def _source(file: str) -> Any:
    return pa.PythonFile(_RemoteFile(file), mode="r") if locations.is_url(file) else pa.memory_map(file)


def _metadata(file: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(_source(file))
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {file} as Parquet ({reason}): is it whole?") from None
