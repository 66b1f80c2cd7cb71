"""Lists the members of a tar from its headers only, several times faster than `tarfile`.

A member is a header of 512 bytes (name at 0, size in octal at 124, checksum at 148, type at 156, prefix of the
name at 345), then its content, padded to a multiple of 512 bytes. Two empty blocks end the tar. A member may follow a
pax header (type x), which Python's `tarfile` writes for times, or a GNU header (type L), for long names.

This module parses plain headers, also after a pax header that changes neither name nor size. NumPy reads the names and
checksums of many headers at once. `tarfile` parses all other headers.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 512
EMPTY = bytes(BLOCK)
PLAIN, PAX = b"0x"  # header types
DIGITS = b"01234567"
RELEVANT_PAX = re.compile(rb" (path=|size=|GNU\.sparse)")  # records that change name, size or content
MAX_EXTENSION = 1 << 20  # bytes of a pax header or long name; a larger one is invalid
AFTER_END = 1 << 16  # bytes after the end mark that are checked
NAME = 100  # bytes of a header
PREFIX = 345
CHECKSUM = slice(148, 156)
OCTAL = 8 ** np.arange(5, -1, -1)

# A regular file in a tar: offset of its first header, offset of its content, size of the content, name. Named tuples
# would take twice the time.
Member = tuple[int, int, int, bytes]


class _CutOff(Exception):
    """The tar ends inside a member."""


class TarHeaders:
    """Iterates over the regular files of a tar, a list of members at a time.

    Files that are cut off, and all files after an invalid header, are skipped.

    Attributes:
      problem: after the iteration, the problem of the tar in words; "" if it has none.
      members: number of members returned so far.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, chunk: int = 1 << 20):
        """`read(offset, length)` returns bytes of a tar of `size` bytes; it is called for `chunk` bytes at a time."""
        self.problem = ""
        self.members = 0
        self._read = read
        self._size = size
        self._chunk_size = chunk
        self._base, self._chunk = 0, b""

    def __iter__(self) -> Iterator[list[Member]]:
        at = 0
        while at is not None:
            if self._size - at < BLOCK:
                self.problem = f"no end mark: perhaps cut off at byte {self._size:,}" if self._size else "empty"
                return
            if at + BLOCK > self._base + len(self._chunk):
                self._base, self._chunk = at, self._read(at, min(max(BLOCK, self._chunk_size), self._size - at))
            found, headers, at = self._walk_chunk(at)
            header_NB = np.frombuffer(b"".join(headers.values()), np.uint8).reshape(-1, BLOCK)
            invalid = _first_invalid(header_NB)
            if invalid is not None:
                at, position = None, list(headers)[invalid]
                self.problem = f"damaged at byte {position:,}"
                found = [member for member in found if member[1] <= position]
            found = _with_names(found, header_NB)
            self.members += len(found)
            yield found

    def _walk_chunk(self, at: int) -> tuple[list[tuple], dict[int, bytes], int | None]:
        """Read the headers in the chunk.

        Returns:
          Members (with a plain header: its index in place of the name); the plain headers by offset; the offset of the
          next header, or None at the end.
        """
        found, headers, chunk, base, size = [], {}, self._chunk, self._base, self._size
        last = base + len(chunk) - BLOCK
        try:
            while at <= last:
                header = chunk[at - base : at - base + BLOCK]
                if header == EMPTY:
                    self._check_after_end(at)
                    return found, headers, None
                # `_is_plain` inlined, for speed.
                if header[156] == PLAIN and header[124] in DIGITS and header[134] in DIGITS and header[135] in b"\0 ":
                    headers[at] = header
                    member = (at, at + BLOCK, int(header[124:135], 8), len(headers) - 1)
                else:
                    member = self._after_pax(at, header, headers) or self._by_tarfile(at)
                end = member[1] + member[2]
                if end > size:
                    raise _CutOff
                found.append(member)
                at = end + -end % BLOCK
        except _CutOff:
            self.problem = f"cut off at byte {size:,}"
        except ValueError:
            self.problem = f"damaged at byte {at:,}"
        else:
            return found, headers, at
        return found, headers, None

    def _after_pax(self, at: int, header: bytes, headers: dict[int, bytes]) -> tuple | None:
        """The member, if its header is plain and follows a pax header without relevant records; None otherwise."""
        length = int(header[124:135], 8) if header[156] == PAX and header[124] in DIGITS else MAX_EXTENSION + 1
        if length > MAX_EXTENSION or RELEVANT_PAX.search(self._peek(at + BLOCK, length)):
            return None
        second = at + BLOCK + length + -length % BLOCK
        plain = self._peek(second, BLOCK)
        if not _is_plain(plain):
            return None
        headers[at], headers[second] = header, plain
        return (at, second + BLOCK, int(plain[124:135], 8), len(headers) - 1)

    def _by_tarfile(self, at: int) -> Member:
        """The next member, parsed by `tarfile`; its name is b"" if the file is sparse or not regular."""
        tar, info = _first_member(_Window(self._peek, at))
        start, begin = info.offset, info.offset_data
        if not info.isreg() or info.issparse() or any(key.startswith("GNU.sparse") for key in info.pax_headers):
            return start, begin, tar.offset - begin, b""
        return start, begin, info.size, _name(self._peek(start, BLOCK)) if begin - start == BLOCK else _encoded(info)

    def _peek(self, at: int, length: int) -> bytes:
        """Bytes inside or outside the chunk; fewer at the end of the tar."""
        begin = at - self._base
        if begin + length <= len(self._chunk):
            return self._chunk[begin : begin + length]
        return self._read(at, max(0, min(length, self._size - at)))

    def _check_after_end(self, at: int) -> None:
        rest = self._size - at
        if self._peek(at, min(rest, AFTER_END)).strip(b"\0"):
            self.problem = f"{rest:,} bytes after its end mark are not read: are these several tars in one?"


class _Window:
    """A file for `tarfile`: the bytes of a tar, starting at an offset."""

    def __init__(self, peek: Callable[[int, int], bytes], at: int):
        self._peek, self._at = peek, at

    def tell(self) -> int:
        return self._at

    def read(self, length: int = -1) -> bytes:
        if not 0 <= length <= MAX_EXTENSION:
            raise ValueError("an invalid header")
        data = self._peek(self._at, length)
        if len(data) < length:
            raise _CutOff
        self._at += length
        return data


def member_name(headers: bytes) -> bytes:
    """The name of a member. `headers` are all bytes from its first header to its content."""
    if len(headers) == BLOCK or (headers[156] == PAX and not RELEVANT_PAX.search(headers, BLOCK, len(headers) - BLOCK)):
        return _name(headers[-BLOCK:])
    return _encoded(_first_member(io.BytesIO(headers))[1])


def _is_plain(header: bytes) -> bool:
    is_regular = len(header) == BLOCK and header[156] == PLAIN
    return is_regular and header[124] in DIGITS and header[134] in DIGITS and header[135] in b"\0 "


def _first_member(file: "io.BytesIO | _Window") -> tuple[tarfile.TarFile, tarfile.TarInfo]:
    """Parse the member that begins at the position of `file`; `ValueError` if its headers are invalid."""
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
        info = tar.firstmember  # `next` would move on in the file, if this one is invalid
    except (tarfile.TarError, IndexError, RecursionError) as error:
        raise ValueError("an invalid header") from error
    if info is None or info.size < 0:
        raise ValueError("an invalid header")
    return tar, info


def _encoded(info: tarfile.TarInfo) -> bytes:
    return info.name.encode("utf-8", "surrogateescape")


def _name(header: bytes) -> bytes:
    name = header[:NAME].split(b"\0")[0]
    if header[PREFIX] and header[257:263] == b"ustar\0":  # GNU tar stores times at this position
        return header[PREFIX:500].split(b"\0")[0] + b"/" + name
    return name


def _first_invalid(header_NB: np.ndarray) -> int | None:
    """Index of the first header with a wrong checksum: the sum of its bytes, with spaces in place of the checksum."""
    stated_N8 = header_NB[:, CHECKSUM]
    sums = header_NB.sum(1, dtype=np.uint32).astype(np.int64) - stated_N8.sum(1, dtype=np.uint32) + 8 * ord(" ")
    # `tarfile` also accepts other forms: fewer digits, sums of signed bytes.
    suspect = np.flatnonzero((stated_N8[:, :6].astype(np.int64) - ord("0")) @ OCTAL != sums)
    return next((int(i) for i in suspect if not _is_header(header_NB[i].tobytes())), None)


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _with_names(found: list[tuple], header_NB: np.ndarray) -> list[Member]:
    """Regular files only, with their names."""
    name_NC = np.ascontiguousarray(header_NB[:, :NAME])
    names = name_NC.view(f"S{NAME}").ravel().tolist()  # without trailing zeros
    ended_early = (name_NC[:, :-1] == 0) & (name_NC[:, 1:] != 0)
    for i in np.flatnonzero(ended_early.any(1) | (header_NB[:, PREFIX] != 0)):
        names[i] = _name(header_NB[i].tobytes())
    named = [(start, begin, size, name if type(name) is bytes else names[name]) for start, begin, size, name in found]
    return [member for member in named if member[3]]
