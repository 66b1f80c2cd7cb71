"""Members of a tar from its headers alone, compared with `tarfile`."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from rankclip_jax.data.tars.headers import BLOCK, TarHeaders, member_name

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
SIZES = (0, 1, 511, 512, 513, 3000, 70_000)


def walk(data, chunk=1 << 20):
    """Members as (start, begin, size, name), and the problem."""
    walking = TarHeaders(lambda at, length: data[at : at + length], len(data), chunk)
    found = [member for members in walking for member in members]
    assert walking.members == len(found)
    return found, walking.problem


def expected(data):
    """The regular files that tarfile finds, without sparse ones."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.offset, m.offset_data, m.size, os.fsencode(m.name)) for m in tar if m.isreg() and not m.issparse()]


def random_name(rng, long):
    """Names of all lengths, in folders or not."""
    letters = ["a", "b", "0", ".", "_", "é" if long else "e", "漢" if long else "k"]
    length = int(rng.choice([1, 9, 95, 99, 100, 101, 155, 180, *([256, 300, 700] if long else [])]))
    name = "".join(rng.choice(letters, length))
    for cut in range(60, length - 1, 60):
        name = name[:cut] + "/" + name[cut + 1 :]
    return name.strip("/.") or "x"


def random_tar(seed, format_):
    """Regular files with many sizes and names, and links and folders between them."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        for number in range(30):
            name = random_name(rng, long=format_ != tarfile.USTAR_FORMAT)
            info = tarfile.TarInfo(f"{number}{name}" if len(name) < 99 else name)
            info.mtime = 1_700_000_000.5 if number % 3 == 0 and format_ == tarfile.PAX_FORMAT else 1_700_000_000
            kind = rng.choice(["file", "file", "file", "folder", "link", "symlink", "fifo"])
            if kind == "file":
                info.size = int(rng.choice(SIZES))
                tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
            else:
                info.type = {"folder": b"5", "link": b"1", "symlink": b"2", "fifo": b"6"}[kind]
                target = random_name(rng, long=format_ != tarfile.USTAR_FORMAT) if "link" in kind else ""
                info.linkname = target[:99] if format_ == tarfile.USTAR_FORMAT else target
                tar.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("chunk", [BLOCK, 3 * BLOCK, 5000, 1 << 20])
def test_random_tars(format_, chunk):
    for seed in range(10):
        data = random_tar(seed, format_)
        found, problem = walk(data, chunk)
        assert found == expected(data) and len(found) > 5
        assert problem == ""
        assert [member_name(data[start:begin]) for start, begin, _, _ in found] == [name for *_, name in found]


def test_pax_headers_with_size_path_or_unused_keys():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, headers in enumerate(({"comment": "path=no"}, {"size": "700"}, {"path": "of/the/record.txt"})):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size, info.pax_headers = 700, headers
            tar.addfile(info, io.BytesIO(bytes(700)))
    found, problem = walk(file.getvalue())
    assert found == expected(file.getvalue()) and problem == ""
    assert [name for *_, name in found] == [b"0.jpg", b"1.jpg", b"of/the/record.txt"]


def test_a_size_in_a_pax_header_is_used():
    """It is needed above 8 GiB; the size in the header itself is 0 here."""
    info = tarfile.TarInfo("a.jpg")
    info.size, info.pax_headers = 0, {"size": "700"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"x" * 700 + bytes(324) + one_header(3, "last.txt") + bytes(BLOCK) + END
    found, problem = walk(data)
    assert found == expected(data) and [size for _, _, size, _ in found] == [700, 3] and problem == ""


def patched(header, at, field):
    """A header with `field` at offset `at`, and a correct checksum."""
    header = bytearray(header)
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def one_header(size=700, name="a.jpg", format_=tarfile.GNU_FORMAT):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(format_)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("at", "field"),
    [
        (124, b"       1274\0"),  # spaces before the digits
        (124, b"1274 \0\0\0\0\0\0\0"),
        (124, b"000000001274"),  # twelve digits without an end
        (124, b"\x80" + (700).to_bytes(11, "big")),
        (156, b"\0"),
        (156, b"7"),
        (257, bytes(8)),  # v7, without a magic
        (0, b"b.jpg\0junk"),  # bytes after the end of the name
        (0, "é.jpg".encode("latin-1")),
    ],
)
def test_ways_to_write_a_header(at, field):
    data = patched(one_header(), at, field) + bytes(1024) + one_header(3, "last.txt") + bytes(BLOCK) + END
    found, problem = walk(data)
    assert found == expected(data) and len(found) == 2 and problem == ""


def test_only_posix_headers_have_a_prefix():
    """GNU headers have times there, which tarfile would take for a folder."""
    data = patched(one_header(), 345, b"12345670123\0") + bytes(1024) + END
    assert walk(data)[0] == [(0, BLOCK, 700, b"a.jpg")]


def test_signed_checksums():
    """As some old programs write them."""
    header = bytearray(patched(one_header(), 0, "é.jpg".encode("latin-1")))
    signed = sum(byte - 256 * (byte > 127) for byte in header[:148] + b" " * 8 + header[156:])
    header[148:156] = f"{signed:06o}\0 ".encode()
    data = bytes(header) + bytes(1024) + END
    assert walk(data) == (expected(data), "")


def test_sparse_files_are_skipped():
    """The old GNU format, with a map in separate blocks, and the pax format."""
    piece = b"%011o\0" % 0 + b"%011o\0" % 100
    old = patched(one_header(100, "s.jpg"), 156, b"S")
    old = patched(old, 386, piece + bytes(24 * 3) + b"\1" + b"%011o\0" % 200)
    more = bytes(504) + b"\1" + bytes(7) + bytes(BLOCK)
    pax = tarfile.TarInfo("p.jpg")
    pax.size, pax.pax_headers = 100, {"GNU.sparse.major": "1", "GNU.sparse.name": "p.jpg"}
    new = pax.tobuf(tarfile.PAX_FORMAT)
    last = one_header(3, "last.txt") + bytes(BLOCK) + END
    found, problem = walk(old + more + bytes(BLOCK) + new + bytes(BLOCK) + last)
    assert [name for *_, name in found] == [b"last.txt"] and problem == ""


def test_members_of_gigabytes(tmp_path):
    """A size of 9 GiB has the binary form; the content is a hole in the file."""
    path, size = tmp_path / "big.tar", 9 << 30
    with open(path, "wb") as file:
        file.write(one_header(size, "big.bin"))
        file.seek(size, os.SEEK_CUR)
        file.write(one_header(3, "last.txt") + b"end" + bytes(BLOCK - 3) + END)
    with open(path, "rb") as file:
        walking = TarHeaders(lambda at, length: os.pread(file.fileno(), length, at), path.stat().st_size)
        found = [member for members in walking for member in members]
    with tarfile.open(path) as tar:
        assert found == [(m.offset, m.offset_data, m.size, m.name.encode()) for m in tar]
    assert found[1][1] > size


@pytest.mark.parametrize("format_", FORMATS)
def test_cut_off_at_every_block_and_between(format_):
    """Complete members are found, and the problem is reported."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        for number in range(6):
            info = tarfile.TarInfo(f"{'long' * 30 * (number % 2)}/{number}.jpg".lstrip("/"))
            info.size, info.mtime = SIZES[number], 1_700_000_000 + number % 3 / 2  # half seconds need a pax header
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    data = file.getvalue()
    whole = expected(data)
    end = whole[-1][1] + whole[-1][2] + -whole[-1][2] % BLOCK
    for cut in sorted({*range(0, end + 2 * BLOCK, BLOCK), *range(0, end, 331)}):
        found, problem = walk(data[:cut], 2 * BLOCK)
        assert found == [member for member in whole if member[1] + member[2] <= cut], cut
        assert bool(problem) == (cut < end + BLOCK), cut


def test_an_invalid_header_ends_the_walk():
    data = bytearray(random_tar(1, tarfile.GNU_FORMAT))
    whole = expected(bytes(data))
    rng = np.random.default_rng(0)
    for number in (0, 3, len(whole) - 1):
        for at in rng.integers(0, BLOCK - 12, 20):
            start = whole[number][1] - BLOCK + int(at)  # in the last header before the content
            before, data[start] = data[start], data[start] ^ 0x55
            found, problem = walk(bytes(data))
            assert [m for m in found if m not in whole] == [] and len(found) <= number, (number, at)
            assert problem.startswith("damaged at byte"), (number, at)
            data[start] = before


def test_a_negative_size_is_invalid():
    for field in (b"-0000000512\0", b"\xff" * 12):
        data = one_header() + bytes(1024) + patched(one_header(), 124, field) + END
        assert walk(data)[1] == "damaged at byte 1,536"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (END, ""),
        (bytes(10_240), ""),
        (b"<html>" * 1000, "damaged at byte 0"),
        (gzip.compress(random_tar(0, FORMATS[0]), mtime=0), "damaged at byte 0"),
        (np.random.default_rng(0).bytes(5000), "damaged at byte 0"),
        (b"short", "no end mark: perhaps cut off at byte 5"),
        (random_tar(0, FORMATS[0])[:-10_240].rstrip(b"\0") + b"x", "cut off|no end mark"),
    ],
    ids=("nothing", "end marks", "zeros", "html", "gzip", "noise", "short", "cut off"),
)
def test_empty_files_and_files_that_are_not_tars(data, problem):
    found, reported = walk(data)
    assert any(reported.startswith(part) for part in problem.split("|"))
    assert not found or problem.startswith("cut off")


def test_concatenated_tars_are_reported():
    one = random_tar(0, FORMATS[0])
    assert walk(one + one)[1].endswith("are not read: are these several tars in one?")
    assert walk(one + bytes(100_000))[1] == ""


def extension(kind, size):
    return patched(one_header(size, "x"), 156, kind)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (extension(b"L", 2 << 20) + bytes(3 << 20), "damaged at byte 0"),  # no name has 2 MiB
        (extension(b"x", 0) * 2000 + one_header() + bytes(1024), "damaged at byte 0"),  # `tarfile` is recursive
        (extension(b"x", 12) + b"12 path=\xff\n".ljust(BLOCK, b"\0") + bytes(1024), "damaged at byte 0"),
        (extension(b"L", 600) + bytes(BLOCK), "cut off at byte 1,024"),
        (extension(b"L", 6) + b"a.jpg".ljust(BLOCK, b"\0"), "cut off at byte 1,024"),
        (patched(extension(b"S", 5), 482, b"\1"), "cut off at byte 512"),
    ],
    ids=("a huge name", "2000 pax headers", "no header follows", "half a name", "no member follows", "half a map"),
)
def test_invalid_extensions(data, problem):
    assert walk(data) == ([], problem)


def test_damage_of_any_kind_ends_the_walk():
    """Not in an error, wherever the bytes are: in headers that `tarfile` parses too."""
    rng, sound = np.random.default_rng(0), random_tar(5, tarfile.PAX_FORMAT)
    starts = [start for start, *_ in expected(sound)]
    for _ in range(300):
        data = bytearray(sound)
        for at in rng.choice(starts, 2) + rng.integers(0, 2 * BLOCK, 2):
            data[at] = rng.choice([0, 0x78, 0x80, 0xFF, rng.integers(256)])
        found, _ = walk(bytes(data))
        assert len(found) <= len(starts) + 1
    data = bytearray(sound)
    for at in range(starts[3], starts[3] + 3 * BLOCK):
        data[at] = 0x41 + at % 23
    assert walk(bytes(data)) == (walk(sound)[0][:3], f"damaged at byte {starts[3]:,}")
