"""The byte ranges of all tars of a folder in one file, mapped into memory.

    rows   uint32, little-endian, of one shard after the other: `shard.Shard.rows`
    table  JSON: {"parts": [[extension, ...], ...], "shards": {name: entry, ...}}, in the order of the rows
    end    bytes of the table as uint64, little-endian, and `MAGIC`

A file is written under another name and then renamed: whoever opens one finds it whole, and who has mapped the
one before keeps that. An entry has the shard's size and time of change, or a server's tag: where these
have changed, it counts for nothing.
"""

import contextlib
import json
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from rankclip_jax.data.tars.shard import Part, Shard, width
from rankclip_jax.files import PARTIAL, replaced_file

MAGIC = b"rcjtar01"
END = 8 + len(MAGIC)
SMALL = 1 << 20  # bytes up to which a file is read whole: a mapping keeps it open


@dataclass(frozen=True)
class Entry:
    """What the table says of one shard; the rest is as in `Shard`."""

    size: int
    stamp: str
    pairs: int
    members: int
    incomplete: int
    duplicates: int
    problem: str
    extensions: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, shard: Shard, size: int, stamp: str) -> "Entry":
        fields = {name: getattr(shard, name) for name in cls.__dataclass_fields__ if hasattr(shard, name)}
        return cls(size=size, stamp=stamp, pairs=len(shard.rows), **fields)


@dataclass(frozen=True)
class Index:
    """Entries by the shard's file name, and the rows of each."""

    entries: Mapping[str, Entry]
    rows: Mapping[str, np.ndarray]

    def fresh(self, stamps: Mapping[str, tuple[int, str]]) -> "Index":
        """The part of it that is about the named shards, and still true of them."""
        kept = [name for name, stamp in stamps.items() if (e := self.entries.get(name)) and (e.size, e.stamp) == stamp]
        return Index({name: self.entries[name] for name in kept}, {name: self.rows[name] for name in kept})


EMPTY = Index({}, {})


def write_index(path: str, index: Index, parts: Sequence[Part]) -> None:
    """Write the file in one move; `OSError` if that cannot be."""
    table = {"parts": parts, "shards": {name: asdict(entry) for name, entry in index.entries.items()}}
    text = json.dumps(table, separators=(",", ":")).encode()
    partial = f"{path}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    with replaced_file(path, "wb", partial) as file:
        for name in index.entries:
            file.write(np.ascontiguousarray(index.rows[name], "<u4"))
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)


def remove_partials(path: str) -> None:
    """Remove what writers of `path` left that were killed; the caller knows that there is none at work."""
    folder, name = os.path.split(path)
    for file in os.listdir(folder):
        if file.startswith(f"{name}.") and file.endswith(PARTIAL):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, file))


def read_index(path: str, parts: Sequence[Part]) -> Index:
    """Open an index; an empty one if there is none, or what is there is no index of these parts."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < END:
                return EMPTY
            data = file.read() if size < SMALL else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return EMPTY
    begin = size - END - int.from_bytes(data[size - END : size - len(MAGIC)], "little")
    if data[size - len(MAGIC) :] != MAGIC or begin < 0:
        return EMPTY
    try:
        table = json.loads(data[begin : size - END])
        entries = {
            name: Entry(**entry | {"extensions": tuple(entry["extensions"])}) for name, entry in table["shards"].items()
        }
        same_parts = table["parts"] == [list(part) for part in parts]
    except (ValueError, TypeError, KeyError):
        return EMPTY
    columns = width(parts)
    if not same_parts or begin != 4 * columns * sum(entry.pairs for entry in entries.values()):
        return EMPTY
    rows = np.frombuffer(data, "<u4", begin // 4).reshape(-1, columns)
    ends = np.cumsum([entry.pairs for entry in entries.values()]).tolist()
    return Index(
        entries, {name: rows[end - entries[name].pairs : end] for name, end in zip(entries, ends, strict=True)}
    )
