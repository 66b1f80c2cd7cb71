"""ArrayRecord files: random access to encoded records, without an index.

A record is a msgpack map, which any language can write:

    {"key": "cat/001.jpg", "image": <bytes of a JPEG file>, "captions": ["a cat"], "second_captions": [...]}

Either all records or none have "second_captions". Write files with ``group_size:1``, like
`python -m rankclip_jax.data convert`: for each record its whole group is read. The files of TensorFlow Datasets have
another layout: use the format `tfds`.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any

import grain
import msgpack
from array_record.python.array_record_module import ArrayRecordWriter

from rankclip_jax.data.pairs import LAST_READ, PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.files.atomic import replaced_path

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
    except Exception as error:  # the library has no error type of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {files[0]} as ArrayRecord of pairs ({reason}): is it complete?") from None
    if first is None:
        raise UserError(f"{files[0]} has no records: check the file.")
    if not isinstance(first, dict) or not set(FIELDS) <= set(first):
        found = ", ".join(map(str, first)) if isinstance(first, dict) else type(first).__name__
        needed = ", ".join(FIELDS)
        raise UserError(f"{files[0]}: records need {needed}; found {found}. For TensorFlow Datasets use format tfds.")
    return ArrayRecordPairs(files, records, has_second=SECOND in first)


class ArrayRecordPairs(PairSource):
    """The pairs in ArrayRecord files."""

    def __init__(self, files: Sequence[str], records: Sequence[bytes], has_second: bool):
        self._files, self._encoded, self._record = tuple(files), records, lru_cache(LAST_READ)(self._read)
        self.has_second_captions = has_second

    def __len__(self) -> int:
        return len(self._encoded)

    def key(self, index: int) -> str:
        try:
            return str(self._record(index)["key"])
        except Exception:  # an unreadable record may cause any error
            return f"record {index}"

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)["captions"])

    def second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)[SECOND]) if self.has_second_captions else ()

    def image_bytes(self, index: int) -> bytes:
        return self._record(index)["image"]

    def digest(self) -> str:
        """Covers names and sizes of the files, and the number of records."""
        sizes = [(os.path.basename(file), locations.size(file)) for file in self._files]
        return hashlib.sha256(repr((len(self), sizes)).encode()).hexdigest()

    def _read(self, index: int) -> dict[str, Any]:
        # Text that is not UTF-8 gets surrogates, which `captions_of` rejects.
        return msgpack.unpackb(self._encoded[index], unicode_errors="surrogateescape")


def encode_pair(pairs: PairSource, index: int) -> bytes:
    """A pair of any format as a record. For a pair that cannot be read, the error of its reader is raised."""
    record = {"key": pairs.key(index), "image": pairs.image_bytes(index), "captions": pairs.captions(index)}
    if pairs.has_second_captions:
        record[SECOND] = pairs.second_captions(index)
    return msgpack.packb(record)


def write_records(path: str | os.PathLike, records: Iterable[bytes]) -> int:
    """Write records as one file, atomically; return the number of records."""
    count = 0
    with replaced_path(path) as partial, closing(ArrayRecordWriter(str(partial), "group_size:1")) as writer:
        for record in records:
            writer.write(record)
            count += 1
    return count
