"""Samples of tars: which members are a sample, and which shards are missing."""

import pytest

from rankclip_jax.data.tars.report import gaps_in
from rankclip_jax.data.tars.shard import scan, split_name
from tests.support.tar_files import write_tar
from tests.support.tar_indexes import PARTS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00000.jpg", ("00000", "jpg")),
        ("00000.seg.png", ("00000", "seg.png")),
        ("a/b.c/00000.JPG", ("a/b.c/00000", "JPG")),
        ("./00000.jpg", ("./00000", "jpg")),
        ("a.b/no_extension", ("", "")),
        ("._00000.jpg", ("", "")),  # written by macOS
        ("a/.hidden", ("", "")),
        ("00000.", ("00000", "")),
    ],
)
def test_a_key_ends_at_the_first_dot(name, expected):
    """As `base_plus_ext` of the webdataset library."""
    assert split_name(name.encode()) == tuple(part.encode() for part in expected)


def scanned(tmp_path, names, parts=PARTS):
    """Sizes of the parts of each sample in a tar whose members have sizes 1, 2, 3 ..., and the shard."""
    data = write_tar(tmp_path / "x.tar", [(name, b"x" * size) for size, name in enumerate(names, 1)]).read_bytes()
    shard = scan(lambda at, length: data[at : at + length], (len(data), ""), parts)
    for row in shard.rows:
        assert data[int(row[3]) * 512 :].startswith(b"x" * int(row[4]))
    return [tuple(row[4::2]) for row in shard.rows.tolist()], shard


@pytest.mark.parametrize(
    ("names", "expected", "incomplete", "duplicates"),
    [
        (["a.jpg", "a.txt", "b.jpg", "b.txt"], [(1, 2), (3, 4)], 0, 0),
        (["a.txt", "a.json", "a.JPEG"], [(3, 1)], 0, 0),
        (["a.png", "a.jpg", "a.txt", "a.webp"], [(2, 3)], 0, 0),  # jpg is the preferred extension
        (["a.jpg", "b.jpg", "b.txt", "c.txt", "d.json"], [(2, 3)], 3, 0),
        (["a.jpg", "b.jpg", "a.txt", "b.txt"], [(1, 3), (2, 4)], 0, 0),
        (["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt"], [(1, 2), (3, 4)], 0, 2),
        (["x/a.jpg", "x/a.txt", "y/a.txt", "y/a.jpg"], [(1, 2), (4, 3)], 0, 0),
        (["a.seg.jpg", "a.txt", "b.jpg", "b.txt"], [(3, 4)], 1, 0),
        (["._a.jpg", "._a.txt", "README", "x/"], [], 0, 0),
        ([], [], 0, 0),
    ],
)
def test_samples(tmp_path, names, expected, incomplete, duplicates):
    found, shard = scanned(tmp_path, names)
    assert found == expected
    assert (shard.entry.incomplete, shard.entry.duplicates, shard.entry.problem) == (incomplete, duplicates, "")
    assert shard.entry.members == len(names)


def test_other_parts(tmp_path):
    names = ["a.jpg", "a.seg.png", "a.txt", "a.json", "b.jpg", "b.txt"]
    parts = (("seg.png",), ("txt",), ("json",))
    found, shard = scanned(tmp_path, names, parts)
    assert found == [(2, 3, 4)] and shard.entry.incomplete == 1
    assert shard.entry.extensions == ("jpg", "json", "seg.png", "txt")


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["00000.tar", "00001.tar", "00003.tar"], ["00002.tar"]),
        (["a-9.tar", "a-12.tar"], ["a-10.tar", "a-11.tar"]),
        (["a-009.tar", "a-012.tar", "b-001.tar"], ["a-010.tar", "a-011.tar"]),
        (["cc3m-train-0000.tar", "cc3m-train-0002.tar"], ["cc3m-train-0001.tar"]),
        (["x/0.tar", "y/2.tar"], []),
        (["train.tar", "5.tar"], []),
    ],
)
def test_gaps(names, missing):
    assert gaps_in(names) == missing
