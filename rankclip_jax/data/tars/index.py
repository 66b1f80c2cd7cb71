"""Index files: the byte ranges of all samples of the tars in one folder, mapped into memory.

    rows   uint32, little-endian, one shard after another: `shard.Shard.rows`
    table  JSON: {"parts": [[extension, ...], ...], "extensions": [[extension, ...], ...], "shards": {"name": [], ...}}
           "shards" has a list for each field of `shard.Entry`, in the order of the rows. Its "extensions" are indices
           into the other list of this name.
    end    length of the table in bytes as uint64, little-endian, and `MAGIC`

A new file replaces the old file by a rename: readers always find a complete file, and can still use an old file that
they have mapped. An entry holds the shard's size and stamp. If the shard has changed, the entry is ignored.

While an index is built, new shards are saved in segments: files beside it of the same format. They are as small as the
work since the last save, whatever the size of the index. The finished index replaces them.
"""

import contextlib
import glob
import json
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

from rankclip_jax.data.tars.shard import Entry, Part, Shard, width
from rankclip_jax.files.atomic import PARTIAL, replaced_file

MAGIC = b"rcjtar02"
END = 8 + len(MAGIC)
SEGMENT = ".segment"
SMALL = 1 << 20  # bytes; a smaller file is read instead of mapped, because a mapping keeps its file open

Index = dict[str, Shard]  # by the shard's file name


def fresh(index: Index, stamps: Mapping[str, tuple[int, str]]) -> Index:
    """The named shards that are in the index and have not changed."""
    entries = {name: index[name].entry for name in stamps if name in index}
    return {name: index[name] for name, entry in entries.items() if (entry.size, entry.stamp) == stamps[name]}


def write_index(path: str, index: Index, parts: Sequence[Part]) -> None:
    """Replace the file at `path`; `OSError` if it cannot be written."""
    text = json.dumps(table_of(index, parts), separators=(",", ":")).encode()
    partial = f"{path}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    with replaced_file(path, "wb", partial) as file:
        for shard in index.values():
            file.write(np.ascontiguousarray(shard.rows, "<u4"))
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)


def table_of(index: Index, parts: Sequence[Part]) -> dict:
    """The table of an index as columns: lists are parsed several times faster than an object for each shard."""
    entries = [shard.entry for shard in index.values()]
    columns = {field: [getattr(entry, field) for entry in entries] for field in Entry._fields}
    numbers: dict[tuple[str, ...], int] = {}
    columns["extensions"] = [numbers.setdefault(names, len(numbers)) for names in columns["extensions"]]
    return {"parts": parts, "extensions": [*numbers], "shards": {"name": [*index]} | columns}


def _entries(table: dict) -> dict[str, Entry]:
    """The entries in a table, by name."""
    columns, extensions = table["shards"], [tuple(names) for names in table["extensions"]]
    columns["extensions"] = [extensions[number] for number in columns["extensions"]]
    entries = map(Entry._make, zip(*(columns[field] for field in Entry._fields), strict=True))
    return dict(zip(columns["name"], entries, strict=True))


def remove_partials(path: str) -> None:
    """Remove partial files of killed writers of `path`. The caller ensures that no other process writes it."""
    folder, name = os.path.split(path)
    for file in os.listdir(folder):
        if file.startswith(f"{name}.") and file.endswith(PARTIAL):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, file))


def write_segment(path: str, number: int, index: Index, parts: Sequence[Part]) -> Index:
    """Save some shards of the index at `path` in a segment; return them, mapped from there."""
    segment = f"{path}.{number:06d}{SEGMENT}"
    write_index(segment, index, parts)
    return read_index(segment, parts)


def segments_of(path: str) -> list[str]:
    """The segments of the index at `path`, the oldest first."""
    return sorted(glob.glob(f"{glob.escape(path)}.*{SEGMENT}"))


def _mapped(file: BinaryIO) -> mmap.mmap:
    """A file as memory. Training reads rows in random order, so the system must not read the rows around them."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data.madvise(mmap.MADV_RANDOM)
    return data


def read_index(path: str, parts: Sequence[Part]) -> Index:
    """Open an index; it is empty if the file is missing, damaged or has other parts."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < END:
                return {}
            data = file.read() if size < SMALL else _mapped(file)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    begin = size - END - int.from_bytes(data[size - END : size - len(MAGIC)], "little")
    if data[size - len(MAGIC) :] != MAGIC or begin < 0:
        return {}
    try:
        table = json.loads(data[begin : size - END])
        shards = _entries(table)
        same_parts = table["parts"] == [list(part) for part in parts]
        ends = np.cumsum([entry.pairs for entry in shards.values()], dtype=np.int64).tolist()
    except (ValueError, TypeError, KeyError, IndexError):
        return {}
    if not same_parts or begin != 4 * width(parts) * (ends[-1] if ends else 0):
        return {}
    rows = np.frombuffer(data, "<u4", begin // 4).reshape(-1, width(parts))
    return {
        name: Shard(entry, rows[end - entry.pairs : end])
        for (name, entry), end in zip(shards.items(), ends, strict=True)
    }
