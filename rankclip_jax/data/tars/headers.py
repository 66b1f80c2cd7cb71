"""The members of one tar from its headers alone: some 10^6 a second, where `tarfile` makes 5 * 10^4.

A tar is a row of members: a header of 512 bytes (name at 0, size in octal at 124, checksum at 148, type at
156, name's prefix at 345), then the content, filled up to a multiple of 512. Two empty blocks end it. Names
too long for a header stand in a member of their own before it: of type L (GNU), or x (POSIX pax), as
``length path=NAME`` lines.
"""

from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 512
EMPTY = bytes(BLOCK)
PLAIN = ord("0")
REGULAR = (0, PLAIN, ord("7"))
DIGITS = b"01234567"
WITHOUT_CONTENT = tuple(b"123456")  # links, devices, folders: whatever their size says
LONG_NAME, PAX, SPARSE = b"LxS"
MAX_EXTENSION = 1 << 20  # bytes of a long name or pax header; more is no tar
AFTER_END = 1 << 16  # bytes after the end mark that are looked at
NAME = 100  # bytes of a header
PREFIX = 345
CHECKSUM = slice(148, 156)
OCTAL = 8 ** np.arange(5, -1, -1)


# A regular file in a tar: where its first header is, where its content is, the content's size, and its name. A
# named tuple would take as long to make as all the rest.
Member = tuple[int, int, int, bytes]


class Damaged(ValueError):
    """A header that is none."""


class TarHeaders:
    """Iterates over the regular members of a tar, a list of them at a time.

    Members that are cut off, or come after a header that is none, are not given.

    Attributes:
      problem: after the iteration, what is wrong with the tar, in words; "" for nothing.
      members: how many were given so far.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, chunk: int = 1 << 20):
        """`read(offset, length)` gives bytes of a tar of `size` bytes; it is asked for `chunk` at a time."""
        self.problem = ""
        self.members = 0
        self._read = read
        self._size = size
        self._chunk_size = chunk
        self._base, self._chunk = 0, b""

    def __iter__(self) -> Iterator[list[Member]]:
        at = 0
        while not self.problem and at is not None:
            if self._size - at < BLOCK:
                self.problem = f"no end mark: perhaps cut off at byte {self._size:,}" if self._size else "empty"
                return
            self._load(at, BLOCK)
            found, headers, at = self._walk_chunk(at)
            header_NB = np.frombuffer(b"".join(headers.values()), np.uint8).reshape(-1, BLOCK)
            wrong = _first_wrong(header_NB)
            if wrong is not None:
                place = list(headers)[wrong]
                self.problem = f"damaged at byte {place:,}"
                found = [member for member in found if member[1] <= place]
            found = _with_names(found, header_NB)
            self.members += len(found)
            yield found

    def _load(self, at: int, length: int) -> None:
        """Make sure that `length` bytes at `at` are in the chunk."""
        if not self._base <= at <= at + length <= self._base + len(self._chunk):
            length = min(max(length, self._chunk_size), self._size - at)
            self._base, self._chunk = at, self._read(at, length)

    def _walk_chunk(self, at: int) -> tuple[list[tuple], dict[int, bytes], int | None]:
        """Members with headers in the chunk, all headers by their place, and where to go on: None for nowhere.

        Instead of its name a plain member has the number of its header.
        """
        found, headers, chunk, base, size = [], {}, self._chunk, self._base, self._size
        last = base + len(chunk) - BLOCK
        try:
            while at <= last:
                header = chunk[at - base : at - base + BLOCK]
                if header == EMPTY:
                    self._look_after_end(at)
                    return found, headers, None
                headers[at] = header
                if header[156] == PLAIN and header[124] in DIGITS and header[134] in DIGITS and header[135] in b"\0 ":
                    member = (at, at + BLOCK, int(header[124:135], 8), len(headers) - 1)
                else:
                    member = self._unusual(at, header, headers)
                end = member[1] + member[2]
                if end > size:
                    self.problem = f"cut off at byte {size:,}"
                    return found, headers, None
                found.append(member)
                at = end + -end % BLOCK
        except ValueError:
            self.problem = f"damaged at byte {at:,}"
            return found, headers, None
        return found, headers, at

    def _unusual(self, at: int, header: bytes, headers: dict[int, bytes]) -> Member:
        """The member whose headers begin at `at`, if more than a plain one; its name is b"" if it is no file."""
        start, name, size, kind = at, b"", None, header[156]
        while kind not in REGULAR:
            length = 0 if kind in WITHOUT_CONTENT else _number(header[124:136])
            if kind == SPARSE:
                return (start, self._after_maps(at, header), length, b"")
            if kind not in (LONG_NAME, PAX):
                return (start, at + BLOCK, length, b"")
            if length > MAX_EXTENSION:
                raise Damaged
            content = self._peek(at + BLOCK, length)
            at += BLOCK + length + -length % BLOCK
            if len(content) < length or at + BLOCK > self._size:
                return (start, at, BLOCK, b"")  # beyond the end of the file: cut off
            if kind == LONG_NAME:
                name = name or content.split(b"\0")[0]
            else:
                name, size = _pax(content, name, size)
            header = headers[at] = self._peek(at, BLOCK)
            kind = header[156]
        size = _number(header[124:136]) if size is None else size
        return (start, at + BLOCK, size, b"" if name == SPARSE_PAX else name or _name(header))

    def _after_maps(self, at: int, header: bytes) -> int:
        """Where the content of a sparse file begins: maps of its holes may follow the header."""
        more, at = header[482], at + BLOCK
        while more and at + BLOCK <= self._size:
            more, at = self._peek(at, BLOCK)[504], at + BLOCK
        return at

    def _peek(self, at: int, length: int) -> bytes:
        """Bytes that may lie beyond the chunk."""
        begin = at - self._base
        if begin + length <= len(self._chunk):
            return self._chunk[begin : begin + length]
        return self._read(at, max(0, min(length, self._size - at)))

    def _look_after_end(self, at: int) -> None:
        rest = self._size - at
        if self._peek(at, min(rest, AFTER_END)).strip(b"\0"):
            self.problem = f"{rest:,} bytes after its end mark are not read: are these several tars in one?"


SPARSE_PAX = b"\0sparse"  # no name of a file


def member_name(headers: bytes) -> bytes:
    """The name of a member from all its headers, the bytes from its first header to its content."""
    if len(headers) == BLOCK:
        return _name(headers)
    walk = TarHeaders(lambda at, length: headers[at : at + length], len(headers))
    walk._load(0, BLOCK)
    return walk._unusual(0, headers[:BLOCK], {})[3]


def _name(header: bytes) -> bytes:
    name = header[:NAME].split(b"\0")[0]
    if header[PREFIX] and header[257:263] == b"ustar\0":  # GNU's own headers have times there
        return header[PREFIX:500].split(b"\0")[0] + b"/" + name
    return name


def _number(field: bytes) -> int:
    """A size: octal digits, or since 8 GiB need more than 11 of them, binary after a first bit that is set."""
    number = int.from_bytes(field[1:], "big") if field[0] == 128 else int(field.split(b"\0")[0].strip() or b"0", 8)
    return _not_negative(number)


def _not_negative(number: int) -> int:
    if number < 0:
        raise Damaged
    return number


def _pax(content: bytes, name: bytes, size: int | None) -> tuple[bytes, int | None]:
    """Name and size of the next member by the records ``length key=value\\n`` of a pax header, where it has them."""
    if b"path=" not in content and b"size=" not in content and b"GNU.sparse" not in content:
        return name, size
    at = 0
    while at < len(content) and content[at]:
        digits = content[at : at + 20].split(b" ")[0]
        end = at + int(digits)
        key, _, value = content[at + len(digits) + 1 : end - 1].partition(b"=")
        if end <= at or end > len(content):
            raise Damaged
        if key == b"path" and name != SPARSE_PAX:
            name = value
        elif key == b"size":
            size = _not_negative(int(value))
        elif key.startswith(b"GNU.sparse"):  # the content is not the file as it is
            name = SPARSE_PAX
        at = end
    return name, size


def _first_wrong(header_NB: np.ndarray) -> int | None:
    """Number of the first header whose checksum is not the sum of its bytes, its own counted as spaces."""
    told_N8 = header_NB[:, CHECKSUM]
    sums = header_NB.sum(1, dtype=np.uint32).astype(np.int64) - told_N8.sum(1, dtype=np.uint32) + 8 * ord(" ")
    suspect = np.flatnonzero((told_N8[:, :6].astype(np.int64) - ord("0")) @ OCTAL != sums)
    return next((int(i) for i in suspect if not _sums_up(header_NB[i], int(sums[i]))), None)


def _with_names(found: list[tuple], header_NB: np.ndarray) -> list[Member]:
    """Members with their names; those that are no files left out."""
    name_NC = np.ascontiguousarray(header_NB[:, :NAME])
    names = name_NC.view(f"S{NAME}").ravel().tolist()  # without zeros at the end
    ended_early = (name_NC[:, :-1] == 0) & (name_NC[:, 1:] != 0)
    for i in np.flatnonzero(ended_early.any(1) | (header_NB[:, PREFIX] != 0)):
        names[i] = _name(header_NB[i].tobytes())
    named = [(start, begin, size, name if type(name) is bytes else names[name]) for start, begin, size, name in found]
    return [member for member in named if member[3]]


def _sums_up(header_B: np.ndarray, unsigned: int) -> bool:
    """Whether the checksum is right in any of the ways it has been written: fewer digits, bytes with a sign."""
    try:
        told = _number(header_B[CHECKSUM].tobytes().strip())
    except (ValueError, IndexError):
        return False
    signed = unsigned - 256 * int(np.count_nonzero(np.delete(header_B, np.r_[CHECKSUM]) > 127))
    return told in (unsigned, signed)
