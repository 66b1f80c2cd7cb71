"""Random access to Parquet files, local or remote.

Parquet is read one row group at a time. Captions stay in memory. For images, the most recently used row groups stay in
memory, up to `CACHE_BYTES`. If the images do not fit, a random image costs reading its whole row group; a warning then
advises to convert the files.
"""

import hashlib
import io
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.cells import ArrowCells, pairs_of
from rankclip_jax.data.sources.paths import image_folder
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import redacted

LOG = logging.getLogger(__name__)
CACHE_BYTES = 512 << 20
LARGE_GROUP = 16 << 20  # bytes; larger row groups cause a warning if each image costs reading one
LOCKS = 64
FOOTER = 8  # last bytes of a file: length of the metadata, and a magic number


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open Parquet files; `UserError` if one is missing or damaged, their columns differ, or there are no rows."""
    return pairs_of(ParquetCells(files), image_folder(options, os.path.dirname(files[0])), options, files[0])


class ParquetCells(ArrowCells):
    """Parquet files; `cache_bytes` is the memory for row groups of images (always enough for one group)."""

    def __init__(self, files: Sequence[str], cache_bytes: int = CACHE_BYTES):
        self._metadata, schemas = zip(*map(_metadata, files), strict=True)
        super().__init__(files, schemas, [metadata.num_rows for metadata in self._metadata])
        self._groups = [(file, group) for file, m in enumerate(self._metadata) for group in range(m.num_row_groups)]
        self._starts = np.cumsum([0, *(self._metadata[f].row_group(g).num_rows for f, g in self._groups)])
        self._limit = cache_bytes
        self._kept: dict[tuple[str, int], pa.Array] = {}
        self._recent: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()
        self._lock, self._group_locks = threading.Lock(), [threading.Lock() for _ in range(LOCKS)]
        self._warned = False

    def cell(self, column: str, index: int) -> Any:
        group, row = self._locate(index)
        with self._group_locks[group % LOCKS]:
            if (column, group) not in self._kept:
                self._kept[column, group] = self._read(column, group)
        return self._kept[column, group][row].as_py()

    def large_cell(self, column: str, index: int) -> Any:
        group, row = self._locate(index)
        with self._group_locks[group % LOCKS]:  # two threads must not read the same group
            values = self._recent.get((column, group))
            if values is None:
                values = self._read(column, group)
                self._warn_once(values.nbytes)
            self._remember((column, group), values)
        return values[row].as_py()

    def whole(self, column: str) -> Iterator[pa.Array]:
        return (self._read(column, group) for group in range(len(self._groups)))

    def digest(self) -> str:
        """Covers the files' metadata: the sizes of every column, and usually its smallest and largest values."""
        sha = hashlib.sha256()
        for file in self._files:
            size = locations.size(file)
            footer = int.from_bytes(locations.read_range(file, size - FOOTER, 4), "little")
            sha.update(locations.read_range(file, size - FOOTER - footer, footer))
        return sha.hexdigest()

    def _locate(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, index, "right")) - 1
        return group, int(index - self._starts[group])

    def _read(self, column: str, group: int) -> pa.Array:
        file, number = self._groups[group]
        # Every read opens its own handle, because a handle is not thread-safe.
        try:
            with pq.ParquetFile(_source(self._files[file]), metadata=self._metadata[file]) as opened:
                table = opened.read_row_group(number, columns=[column], use_threads=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(self._files[file], error) from None
        return pa.concat_arrays(table.column(0).chunks)

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
            "%s: each image drawn at random reads a row group of %d MB. Convert the files once, by "
            "`python -m rankclip_jax.data convert`, or write them with row groups of 100 rows.",
            redacted(self._files[0]),
            group_bytes >> 20,
        )


class _RemoteFile(io.RawIOBase):
    """A file object for a URL, with the methods that pyarrow calls."""

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


def _metadata(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    locations.check_files([file])
    try:
        metadata = pq.read_metadata(_source(file))
        return metadata, metadata.schema.to_arrow_schema()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(file, error) from None


def _damaged(file: str, error: Exception) -> UserError:
    return UserError(f"cannot read {file} as Parquet ({' '.join(str(error).split())[:200]}): is it complete?")
