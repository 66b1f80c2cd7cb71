"""The index of tars: its file, when it is built again, its location, and errors for files that are not tars."""

import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import open_pairs
from rankclip_jax.data.tars import build
from rankclip_jax.data.tars.build import open_indexes
from rankclip_jax.data.tars.index import MAGIC, read_index, write_index
from rankclip_jax.data.tars.location import FOLDER
from rankclip_jax.data.tars.shard import Entry, Shard
from rankclip_jax.errors import UserError
from tests.support.tar_files import sample, write_shards, write_tar
from tests.support.tar_indexes import PARTS, note_scans, opened

# ---------------------------------------------------------------- the file


def some_index(counts, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{i}.tar": Shard(
            Entry(10 * n, "9", n, 2 * n, 0, 0, "", ("jpg",), "d"), rng.integers(0, 1 << 32, (n, 7), np.uint32)
        )
        for i, n in enumerate(counts)
    }


@pytest.mark.parametrize("counts", [[], [0], [3, 0, 5], [20_000, 30_000]])
def test_an_index_is_read_as_it_was_written(tmp_path, counts):
    index, path = some_index(counts), str(tmp_path / "x.index")
    write_index(path, index, PARTS)
    read = read_index(path, PARTS)
    assert list(read) == list(index)
    for name, shard in index.items():
        assert read[name].entry == shard.entry
        np.testing.assert_array_equal(read[name].rows, shard.rows)
    assert os.listdir(tmp_path) == ["x.index"]


def test_a_damaged_index_is_ignored(tmp_path):
    path = tmp_path / "x.index"
    write_index(str(path), some_index([30, 50]), PARTS)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in rng.integers(0, len(whole), 50)]
    damaged += [
        whole[:-8] + b"rcjtar99",
        whole[5:],
        b"",
        MAGIC,
        bytes(100),
    ]
    changes = {b'"pairs":[30': b'"pairs":[31', b'"pairs"': b'"pears"', b'{"parts"': b'["parts"'}
    changes |= {b'"extensions":[0': b'"extensions":[9'}
    damaged += [whole.replace(old, new) for old, new in changes.items()]
    for data in damaged:
        assert data != whole
        path.write_bytes(data)
        assert read_index(str(path), PARTS) == {}
    path.write_bytes(whole)
    assert read_index(str(path), (("jpg",), ("txt",))) == {}, "the same number of parts, but other ones"
    assert read_index(str(path), PARTS[:1]) == {} and read_index(str(tmp_path / "none"), PARTS) == {}
    assert len(read_index(str(path), PARTS)) == 2


# ---------------------------------------------------------------- when it is built


@pytest.fixture
def scans(monkeypatch):
    return note_scans(monkeypatch)


def test_it_is_built_once_and_then_for_changed_shards(tmp_path, scans):
    files = write_shards(tmp_path / "d", [3, 4, 5])
    assert opened(files) == [("00000.tar", 3), ("00001.tar", 4), ("00002.tar", 5)]
    assert sorted(scans) == ["00000.tar", "00001.tar", "00002.tar"]
    assert opened(files[::-1])[0] == ("00002.tar", 5) and len(scans) == 3

    write_tar(Path(files[1]), sample(7))
    assert opened(files)[1] == ("00001.tar", 1) and scans[3:] == ["00001.tar"]

    files += write_shards(tmp_path / "d", [2], first=3)
    assert opened(files)[3] == ("00003.tar", 2) and scans[4:] == ["00003.tar"]

    os.utime(files[0], (1, 1))  # the size stays
    assert opened(files[:2]) == [("00000.tar", 3), ("00001.tar", 1)] and scans[5:] == ["00000.tar"]
    assert opened(files)[3] == ("00003.tar", 2) and len(scans) == 6, "shards that were not requested stay in the file"

    opened(files, rebuild=True)
    assert len(scans) == 10


def test_other_parts_have_another_index(tmp_path, scans):
    files = write_shards(tmp_path / "d", [3])
    open_indexes(files, PARTS)
    open_indexes(files, (("jpg",), ("json",)))
    open_indexes(files, PARTS)
    assert len(scans) == 2
    assert sorted(os.listdir(tmp_path / "d" / FOLDER)) == ["image+txt.index", "jpg+json.index", "lock"]


def test_a_changed_shard_has_new_rows(tmp_path):
    files = write_shards(tmp_path / "d", [3, 3])
    before = open_indexes(files, PARTS)
    write_tar(Path(files[0]), [*sample(8), *sample(9)])
    after = open_indexes(files, PARTS)
    assert after[0].entry.digest != before[0].entry.digest and len(after[0].rows) == 2
    np.testing.assert_array_equal(after[1].rows, before[1].rows)
    assert len(before[0].rows) == 3, "an index that was opened before keeps its rows"


def test_a_file_replaced_while_it_is_open(tmp_path):
    """Downloaders write a new file and rename it, so the open descriptor is that of the old file."""
    files = write_shards(tmp_path, [3])
    open_pairs(files, PairOptions()).image_bytes(0)
    os.replace(write_tar(tmp_path / "new", [*sample(8), *sample(9)]), files[0])
    pairs = open_pairs(files, PairOptions())
    assert [pairs.captions(i) for i in range(len(pairs))] == [("number 8",), ("number 9",)]


def test_index_dir(tmp_path, scans):
    files = write_shards(tmp_path / "a", [3]) + write_shards(tmp_path / "b", [4])
    paths = {tar.index for tar in open_indexes(files, PARTS, index_dir=str(tmp_path / "indexes"))}
    assert len(paths) == 2 and {os.path.dirname(path) for path in paths} == {str(tmp_path / "indexes")}
    assert opened(files, index_dir=str(tmp_path / "indexes")) == [("00000.tar", 3), ("00000.tar", 4)]
    assert len(scans) == 2 and not (tmp_path / "a" / FOLDER).exists()


def test_the_index_of_read_only_tars_is_in_the_cache(tmp_path, monkeypatch, caplog, scans):
    """A file with the name of the folder stands for a file system that refuses writes: root may write anywhere."""
    files = write_shards(tmp_path / "d", [3])
    (tmp_path / "d" / FOLDER).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        (tar,) = open_indexes(files, PARTS)
    assert tar.index.startswith(str(tmp_path / "cache" / "rankclip_jax" / "tars"))
    assert f"the index of {tmp_path / 'd'} is kept in {os.path.dirname(tar.index)}" in caplog.text
    assert opened(files) == [("00000.tar", 3)] and len(scans) == 1


def test_an_index_on_a_read_only_disk_is_used(tmp_path, monkeypatch, scans):
    files = write_shards(tmp_path / "d", [3, 4])
    open_indexes(files[:1], PARTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make = os.makedirs

    def refused(path, *rest, **options):
        if str(path).startswith(str(tmp_path / "d")):
            raise OSError(30, "Read-only file system", str(path))
        return make(path, *rest, **options)

    monkeypatch.setattr(os, "makedirs", refused)
    assert opened(files[:1]) == [("00000.tar", 3)] and scans == ["00000.tar"]
    assert opened(files) == [("00000.tar", 3), ("00001.tar", 4)] and scans == ["00000.tar", "00001.tar"]


def test_no_writable_folder_is_an_error(tmp_path, monkeypatch):
    files = write_shards(tmp_path / "d", [1])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config.data.index_dir=.*file cannot be written"):
        open_indexes(files, PARTS, index_dir=str(tmp_path / "file"))
    (tmp_path / "d" / FOLDER).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the index cannot be written .*: set config.data.index_dir"):
        open_indexes(files, PARTS)


# ---------------------------------------------------------------- invalid files


def test_files_that_are_not_tars_are_named_and_the_others_are_indexed(tmp_path, scans):
    files = write_shards(tmp_path, [3, 3, 3])
    Path(files[1]).write_text("<html>not found</html>" * 100)
    with pytest.raises(UserError, match=r"1 files are not tars: download them again.*00001.tar"):
        open_indexes(files, PARTS)
    assert opened([files[0], files[2]]) == [("00000.tar", 3), ("00002.tar", 3)] and len(scans) == 3


def test_compressed_files_named_tar(tmp_path):
    files = write_shards(tmp_path, [3])
    Path(files[0]).write_bytes(gzip.compress(Path(files[0]).read_bytes()))
    with pytest.raises(UserError, match="1 files are compressed and have no random access: decompress them"):
        open_indexes(files, PARTS)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no tar at .*00009.tar"):
        open_indexes([str(tmp_path / "00009.tar")], PARTS)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    files = write_shards(tmp_path, [3])
    monkeypatch.setattr(
        build.locations, "read_range", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(UserError, match=r"00000.tar cannot be indexed .*Input/output error"):
        open_indexes(files, PARTS)
