"""Index files: the byte ranges of all samples of the tars in one folder, mapped into memory.

    rows   uint32, little-endian, one shard after another: `shard.Shard.rows`
    table  JSON: {"parts": [[extension, ...], ...], "shards": {name: entry, ...}}, in the order of the rows
    end    length of the table in bytes as uint64, little-endian, and `MAGIC`

A new file replaces the old file by a rename: readers always find a complete file, and can still use an old file that
they have mapped. An entry holds the shard's size and stamp. If the shard has changed, the entry is ignored.
"""

import contextlib
import json
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from rankclip_jax.data.tars.shard import Entry, Part, Shard, width
from rankclip_jax.files.atomic import PARTIAL, replaced_file

MAGIC = b"rcjtar01"
END = 8 + len(MAGIC)
SMALL = 1 << 20  # bytes; a smaller file is read instead of mapped, because a mapping keeps its file open

Index = dict[str, Shard]  # by the shard's file name


def fresh(index: Index, stamps: Mapping[str, tuple[int, str]]) -> Index:
    """The named shards that are in the index and have not changed."""
    entries = {name: index[name].entry for name in stamps if name in index}
    return {name: index[name] for name, entry in entries.items() if (entry.size, entry.stamp) == stamps[name]}


def write_index(path: str, index: Index, parts: Sequence[Part]) -> None:
    """Replace the file at `path`; `OSError` if it cannot be written."""
    table = {"parts": parts, "shards": {name: asdict(shard.entry) for name, shard in index.items()}}
    text = json.dumps(table, separators=(",", ":")).encode()
    partial = f"{path}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    with replaced_file(path, "wb", partial) as file:
        for shard in index.values():
            file.write(np.ascontiguousarray(shard.rows, "<u4"))
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)


def remove_partials(path: str) -> None:
    """Remove partial files of killed writers of `path`. The caller ensures that no other process writes it."""
    folder, name = os.path.split(path)
    for file in os.listdir(folder):
        if file.startswith(f"{name}.") and file.endswith(PARTIAL):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, file))


def read_index(path: str, parts: Sequence[Part]) -> Index:
    """Open an index; it is empty if the file is missing, damaged or has other parts."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < END:
                return {}
            data = file.read() if size < SMALL else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    begin = size - END - int.from_bytes(data[size - END : size - len(MAGIC)], "little")
    if data[size - len(MAGIC) :] != MAGIC or begin < 0:
        return {}
    try:
        table = json.loads(data[begin : size - END])
        shards = {n: Entry(**row | {"extensions": tuple(row["extensions"])}) for n, row in table["shards"].items()}
        same_parts = table["parts"] == [list(part) for part in parts]
    except (ValueError, TypeError, KeyError):
        return {}
    ends = np.cumsum([entry.pairs for entry in shards.values()], dtype=np.int64).tolist()
    if not same_parts or begin != 4 * width(parts) * (ends[-1] if ends else 0):
        return {}
    rows = np.frombuffer(data, "<u4", begin // 4).reshape(-1, width(parts))
    return {
        name: Shard(entry, rows[end - entry.pairs : end])
        for (name, entry), end in zip(shards.items(), ends, strict=True)
    }
