"""A bucket of any number of equal tars, and their index, on a machine that could never hold them.

The bucket is a file system of fsspec: every object has the content of one small tar. The index has the format of a real
one, with a row for every pair, but it is a sparse file: only the rows that are written occupy a disk. A row that was
not written is a pair without image and captions.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

import fsspec
import numpy as np
from fsspec.spec import AbstractFileSystem

from rankclip_jax.data.storage import locations
from rankclip_jax.data.tars.index import END, MAGIC, table_of
from rankclip_jax.data.tars.location import IndexLocation
from rankclip_jax.data.tars.shard import Part, Shard, scan, width
from rankclip_jax.errors import UserError

SCHEME = "synthetic"
FOLDER = f"{SCHEME}://bucket/tars"


class Bucket(AbstractFileSystem):
    """Objects ``000000.tar`` ... in one folder, all with the content `tar`. `requests` counts the calls by kind."""

    protocol = SCHEME
    cachable = False
    tar: bytes = b""
    requests: ClassVar[Counter[str]] = Counter()

    def info(self, path: str, **options) -> dict:
        self.requests["info"] += 1
        return {"name": self._strip_protocol(path), "size": len(self.tar), "type": "file", "etag": "synthetic"}

    def ls(self, path: str, detail: bool = True, **options) -> list:
        self.requests["ls"] += 1
        raise NotImplementedError("the bucket has no list of its objects")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options) -> bytes:
        self.requests["read"] += 1
        return self.tar[start:end]


def make_bucket(tar: str) -> None:
    """Register the scheme; the objects of the bucket have the content of the file `tar`."""
    fsspec.register_implementation(SCHEME, Bucket, clobber=True)
    Bucket.tar = locations.read(tar)
    Bucket.requests.clear()


def location_of(num_shards: int) -> str:
    """The location of the tars, for `config.data.train`."""
    return f"{FOLDER}/{{{0:06d}..{num_shards - 1:06d}}}.tar"


class SparseIndex:
    """The index of a bucket in `index_dir`, with `pairs_per_shard` pairs in each of `num_shards` tars."""

    def __init__(self, index_dir: str, parts: Sequence[Part], num_shards: int, pairs_per_shard: int):
        """Write the index; `UserError` if the disk cannot hold sparse files of this size."""
        first = f"{FOLDER}/{0:06d}.tar"
        real = scan(lambda offset, length: locations.read_range(first, offset, length), locations.stamp(first), parts)
        self.path = IndexLocation(FOLDER, parts, index_dir).path
        self._rows = real.rows
        self._row_bytes = 4 * width(parts)
        shard = Shard(real.entry._replace(pairs=pairs_per_shard), real.rows)
        table = table_of({f"{number:06d}.tar": shard for number in range(num_shards)}, parts)
        text = json.dumps(table, separators=(",", ":")).encode()
        size = num_shards * pairs_per_shard * self._row_bytes
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        try:
            with open(self.path, "wb") as file:
                file.truncate(size)
                file.seek(size)
                file.write(text + len(text).to_bytes(END - len(MAGIC), "little") + MAGIC)
        except OSError as error:
            where = os.path.dirname(self.path)
            raise UserError(
                f"{where} cannot hold a sparse file of {size:,} bytes ({error}): use another disk."
            ) from None

    def fill(self, indices: Iterable[int]) -> None:
        """Write the rows of some pairs: each gets one of the pairs of the tar."""
        with open(self.path, "r+b", buffering=0) as file:
            for index in indices:
                row = np.ascontiguousarray(self._rows[index % len(self._rows)], "<u4")
                os.pwrite(file.fileno(), row.tobytes(), index * self._row_bytes)
