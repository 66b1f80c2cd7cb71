"""Finds the samples of one tar. A sample has the members whose names are equal up to the first dot of the base name.

The rule of the `webdataset` library differs in two points: it needs members of a sample next to each other, and if
members have the same name, here the first one is used.
"""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rankclip_jax.data.tars.headers import BLOCK, Member, TarHeaders

Part = tuple[str, ...]  # the possible extensions of one part of a sample, such as the image; the preferred one first
MISSING = 255  # rank of a part that has not been found
MAX_SHOWN = 20  # extensions kept for messages
MAX_SIZE = 1 << 32
HEADERS, FIRST = 2, 3  # columns of a row


class Entry(NamedTuple):
    """Facts about one tar.

    Attributes:
      size: size of the file in bytes.
      stamp: text that changes with the file, see `locations.stamp`.
      pairs: number of samples that have all parts.
      members: number of regular files.
      incomplete: number of samples skipped because a part is missing.
      duplicates: number of members skipped because an earlier member has the same name.
      problem: the problem of the tar in words; "" if it has none.
      extensions: extensions of the members, sorted; at most 20.
      digest: sha256 hex of keys and sizes.
    """

    size: int
    stamp: str
    pairs: int
    members: int
    incomplete: int
    duplicates: int
    problem: str
    extensions: tuple[str, ...]
    digest: str


class Shard(NamedTuple):
    """One tar and the byte ranges of its N samples that have all P parts.

    Attributes:
      entry: facts about the tar.
      rows: uint32 [N, 3 + 2 P], samples in the order of their first members. Columns: two halves of `key_hash`, the
        number of header blocks before the first part, and for each part the index of its first content block (of 512
        bytes) and its size in bytes.
    """

    entry: Entry
    rows: np.ndarray


def width(parts: Sequence[Part]) -> int:
    """Number of columns of `Shard.rows` for these parts."""
    return FIRST + 2 * len(parts)


def key_hash(keys: Sequence[bytes]) -> np.ndarray:
    """uint64 [N]: 8 bytes of BLAKE2 of each key. 10^5 keys collide with 10^7 others with probability 10^-7."""
    return np.array([int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys], "<u8")


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Key and extension of a member, (``a.b/c``, ``seg.PNG``) of ``a.b/c.seg.PNG``; (b"", b"") if it has no key."""
    base = name.rfind(b"/") + 1
    cut = name.find(b".", base)
    return (name[:cut], name[cut + 1 :]) if cut > base else (b"", b"")


def scan(
    read: Callable[[int, int], bytes], stamp: tuple[int, str], parts: Sequence[Part], chunk: int = 1 << 20
) -> Shard:
    """Find the samples of a tar of size and stamp `stamp`.

    ``read(offset, length)`` returns bytes of the tar; it is called for `chunk` bytes at a time.
    """
    headers, samples = TarHeaders(read, stamp[0], chunk), _Samples(parts)
    for members in headers:
        samples.add(members)
    return samples.shard(headers, stamp)


class _Samples:
    """Rows of samples in the order of their first members."""

    def __init__(self, parts: Sequence[Part]):
        self._width = width(parts)
        self._num_parts = len(parts)
        self._roles = {
            extension.lower().encode(): (part, rank)
            for part, extensions in enumerate(parts)
            for rank, extension in enumerate(extensions)
        }
        self._role_of = {}  # by extension in its original letter case; None for an unused extension
        self._index_of = {}  # index of a sample by its key
        self._rows = array("I")
        self._ranks = bytearray()
        self._duplicates = 0

    def add(self, members: Sequence[Member]) -> None:
        new_row, new_ranks = array("I", bytes(4 * self._width)), bytes([MISSING] * self._num_parts)
        index_of, role_of, last_key, index = self._index_of, self._role_of, None, 0
        for start, begin, size, name in members:
            base = name.rfind(b"/") + 1  # `split_name`, inlined because a call costs a tenth of the total time
            cut = name.find(b".", base)
            if cut <= base:
                continue
            key, extension = name[:cut], name[cut + 1 :]
            if key != last_key:
                last_key, index = key, index_of.setdefault(key, len(index_of))
                if index * self._width == len(self._rows):
                    self._rows += new_row
                    self._ranks += new_ranks
            if extension not in role_of:
                role_of[extension] = self._roles.get(extension.lower())
            role = role_of[extension]
            if role and size < MAX_SIZE:
                self._set(index, role, start, begin, size)

    def _set(self, index: int, role: tuple[int, int], start: int, begin: int, size: int) -> None:
        part, rank = role
        best = self._ranks[index * self._num_parts + part]
        if rank >= best:
            self._duplicates += rank == best
            return
        self._ranks[index * self._num_parts + part] = rank
        at = index * self._width
        if part == 0:
            self._rows[at + HEADERS] = (begin - start) // BLOCK
        self._rows[at + FIRST + 2 * part] = begin // BLOCK
        self._rows[at + FIRST + 2 * part + 1] = size

    def shard(self, headers: TarHeaders, stamp: tuple[int, str]) -> Shard:
        all_rows = np.array(self._rows, "<u4").reshape(-1, self._width)
        ranks = np.frombuffer(self._ranks, np.uint8).reshape(-1, self._num_parts)
        complete = (ranks != MISSING).all(1)
        keys = [key for key, is_complete in zip(self._index_of, complete, strict=True) if is_complete]
        rows = all_rows[complete]
        rows[:, :HEADERS] = key_hash(keys).view("<u4").reshape(-1, 2)
        digest = hashlib.sha256(b"\0".join(keys))
        digest.update(np.ascontiguousarray(rows[:, FIRST + 1 :: 2]))
        extensions = sorted({extension.decode(errors="replace") for extension in self._role_of})
        entry = Entry(
            size=stamp[0],
            stamp=stamp[1],
            pairs=len(rows),
            members=headers.members,
            incomplete=len(all_rows) - len(keys),
            duplicates=self._duplicates,
            problem=headers.problem,
            extensions=tuple(extensions[:MAX_SHOWN]),
            digest=digest.hexdigest(),
        )
        return Shard(entry, rows)
