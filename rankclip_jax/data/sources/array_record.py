"""ArrayRecord files: random access to encoded records, with nothing to index.

A record is a msgpack map, which any language writes in a line:

    {"key": "cat/001.jpg", "image": <bytes of a JPEG file>, "captions": ["a cat"], "second_captions": [...]}

The last entry is optional, in all records or in none. Files are to be written with ``group_size:1``, as
`python -m rankclip_jax.data convert` does; a larger group is read whole for each record. What TensorFlow
Datasets writes has another layout: name the format `tfds` and its folder for that.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import grain
import msgpack
from array_record.python.array_record_module import ArrayRecordWriter

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.files import replaced_path

FIELDS = ("key", "image", "captions")
SECOND = "second_captions"


def open_pairs(files: Sequence[str], options: PairOptions) -> "ArrayRecordPairs":
    """Open ArrayRecord files.

    Raises:
      UserError: a file is missing, remote, damaged or of another layout, or there are no records.
    """
    for file in files:
        if locations.is_url(file) or not os.path.isfile(file):
            raise UserError(f"no local file at {file}: ArrayRecord files are read from the file system.")
    try:
        records = grain.sources.ArrayRecordDataSource(list(files))
        first = msgpack.unpackb(records[0]) if len(records) else None
    except Exception as error:  # whatever the library says of a damaged file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {files[0]} as ArrayRecord of pairs ({reason}): is it whole?") from None
    if first is None:
        raise UserError(f"{files[0]} has no records: it needs some.")
    if not isinstance(first, dict) or not set(FIELDS) <= set(first):
        found = ", ".join(map(str, first)) if isinstance(first, dict) else type(first).__name__
        raise UserError(f"{files[0]}: records need {', '.join(FIELDS)}; found {found}. Of TFDS? Name the format tfds.")
    return ArrayRecordPairs(files, records, has_second=SECOND in first)


class ArrayRecordPairs:
    """See `PairSource`. The record read last is kept for each thread: its image and its captions are one read."""

    def __init__(self, files: Sequence[str], records: Sequence[bytes], has_second: bool):
        self._files, self._records, self._last = tuple(files), records, threading.local()
        if has_second:
            self.second_captions = self._second_captions

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        try:
            return str(self._record(index)["key"])
        except Exception:  # of a record that cannot be read, the number is all that there is
            return f"record {index}"

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)["captions"])

    def _second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)[SECOND])

    def image_bytes(self, index: int) -> bytes:
        return self._record(index)["image"]

    def digest(self) -> str:
        """Of the number of records, and the files' sizes."""
        sizes = [(os.path.basename(file), locations.size(file)) for file in self._files]
        return hashlib.sha256(repr((len(self), sizes)).encode()).hexdigest()

    def _record(self, index: int) -> dict[str, Any]:
        number, record = getattr(self._last, "record", (None, None))
        if number != index:
            # A text that is not UTF-8 stays bytes-like, and is found out where it is used.
            record = msgpack.unpackb(self._records[index], unicode_errors="surrogateescape")
            self._last.record = index, record
        return record


def encode_pair(pairs: PairSource, index: int) -> bytes:
    """A pair of any other format as a record; whatever that raises for one that cannot be read is raised."""
    record = {"key": pairs.key(index), "image": pairs.image_bytes(index), "captions": pairs.captions(index)}
    if hasattr(pairs, SECOND):
        record[SECOND] = pairs.second_captions(index)
    return msgpack.packb(record)


def write_records(path: str | os.PathLike, records: Iterable[bytes]) -> int:
    """Write records as one file, which appears at `path` when it is complete; return the number of records."""
    count = 0
    with replaced_path(path) as partial, closing(ArrayRecordWriter(str(partial), "group_size:1")) as writer:
        for record in records:
            writer.write(record)
            count += 1
    return count
