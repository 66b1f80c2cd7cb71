"""The samples of one tar: members whose names are equal up to the first dot of the base name.

So does the `webdataset` library, with two differences: members of a sample need not be neighbours, and a
sample that comes twice counts once, as it came first.
"""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rankclip_jax.data.tars.headers import BLOCK, Member, TarHeaders

# Which extensions serve as a part of a sample, the preferred one first.
Part = tuple[str, ...]
NONE = 255  # rank of a part that is not there
MAX_SHOWN = 20  # extensions kept for messages
MAX_SIZE = 1 << 32
HEADERS, FIRST = 2, 3  # columns of a row


@dataclass(frozen=True)
class Shard:
    """What one tar holds.

    Letters: N samples that have all P parts.

    Attributes:
      rows: uint32 [N, 3 + 2 P]: `key_hash` in two halves, how many blocks of headers the first part has, and
        for each part its first block after those (of 512 bytes) and its size in bytes.
      members: files in the tar.
      incomplete: samples left out since a part is not there.
      duplicates: members left out since one of the same name came before.
      problem: what is wrong with the tar, in words; "" for nothing.
      extensions: of its members, sorted; at most 20.
      digest: sha256 hex of keys and sizes.
    """

    rows: np.ndarray
    members: int
    incomplete: int
    duplicates: int
    problem: str
    extensions: tuple[str, ...]
    digest: str


def width(parts: Sequence[Part]) -> int:
    """Numbers in a row for so many parts."""
    return FIRST + 2 * len(parts)


def key_hash(keys: Sequence[bytes]) -> np.ndarray:
    """uint64 [N]: 8 bytes of BLAKE2 of each. Among 10^7 keys, 10^5 others hit one by chance in 10^-7 of cases."""
    return np.array([int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys], "<u8")


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Key and extension of a member: ``a.b/c.seg.PNG`` is (``a.b/c``, ``seg.PNG``). (b"", b"") if it has no key."""
    base = name.rfind(b"/") + 1
    cut = name.find(b".", base)
    return (name[:cut], name[cut + 1 :]) if cut > base else (b"", b"")


def scan(read: Callable[[int, int], bytes], size: int, parts: Sequence[Part], chunk: int = 1 << 20) -> Shard:
    """Find the samples of a tar of `size` bytes that `read(offset, length)` gives pieces of, `chunk` at a time."""
    walk, samples = TarHeaders(read, size, chunk), _Samples(parts)
    for members in walk:
        samples.add(members)
    return samples.shard(walk)


class _Samples:
    """Rows of samples in the order of their first members."""

    def __init__(self, parts: Sequence[Part]):
        self._width = width(parts)
        self._num_parts = len(parts)
        self._roles = {
            extension.lower().encode(): (number, rank)
            for number, part in enumerate(parts)
            for rank, extension in enumerate(part)
        }
        self._role_of = {}  # by extension as it is written, with those that serve for nothing
        self._number_of = {}  # of a sample, by its key
        self._rows = array("I")
        self._ranks = bytearray()
        self._duplicates = 0

    def add(self, members: Sequence[Member]) -> None:
        new_row, new_ranks = array("I", bytes(4 * self._width)), bytes([NONE] * self._num_parts)
        number_of, role_of, last_key, number = self._number_of, self._role_of, None, 0
        for start, begin, size, name in members:
            base = name.rfind(b"/") + 1  # as in `split_name`: a call would cost a tenth of all the time
            cut = name.find(b".", base)
            if cut <= base:
                continue
            key, extension = name[:cut], name[cut + 1 :]
            if key != last_key:
                last_key, number = key, number_of.setdefault(key, len(number_of))
                if number * self._width == len(self._rows):
                    self._rows += new_row
                    self._ranks += new_ranks
            if extension not in role_of:
                role_of[extension] = self._roles.get(extension.lower())
            role = role_of[extension]
            if role and size < MAX_SIZE:
                self._set(number, *role, start, begin, size)

    def _set(self, number: int, part: int, rank: int, start: int, begin: int, size: int) -> None:
        had = self._ranks[number * self._num_parts + part]
        if rank >= had:
            self._duplicates += rank == had
            return
        self._ranks[number * self._num_parts + part] = rank
        at = number * self._width
        if part == 0:
            self._rows[at + HEADERS] = (begin - start) // BLOCK
        self._rows[at + FIRST + 2 * part] = begin // BLOCK
        self._rows[at + FIRST + 2 * part + 1] = size

    def shard(self, walk: TarHeaders) -> Shard:
        all_rows = np.array(self._rows, "<u4").reshape(-1, self._width)
        ranks = np.frombuffer(self._ranks, np.uint8).reshape(-1, self._num_parts)
        complete = (ranks != NONE).all(1)
        keys = [key for key, whole in zip(self._number_of, complete, strict=True) if whole]
        rows = all_rows[complete]
        rows[:, :HEADERS] = key_hash(keys).view("<u4").reshape(-1, 2)
        digest = hashlib.sha256(b"\0".join(keys))
        digest.update(np.ascontiguousarray(rows[:, FIRST + 1 :: 2]))
        extensions = sorted({extension.decode(errors="replace") for extension in self._role_of})
        return Shard(
            rows=rows,
            members=walk.members,
            incomplete=len(all_rows) - len(keys),
            duplicates=self._duplicates,
            problem=walk.problem,
            extensions=tuple(extensions[:MAX_SHOWN]),
            digest=digest.hexdigest(),
        )
