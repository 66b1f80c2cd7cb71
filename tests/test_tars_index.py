"""Samples of tars, and their index: what is in it, when it is made anew, by whom, and after what accidents."""

import gzip
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from rankclip_jax.data.tars import build
from rankclip_jax.data.tars.build import FOLDER, open_indexes
from rankclip_jax.data.tars.index import EMPTY, MAGIC, Entry, Index, read_index, write_index
from rankclip_jax.data.tars.report import gaps_in
from rankclip_jax.data.tars.shard import scan, split_name
from rankclip_jax.errors import UserError
from tests.tar_files import sample, write_shards, write_tar

PARTS = (("jpg", "jpeg", "png", "webp"), ("txt",))
ROOT = Path(__file__).parent.parent


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00000.jpg", ("00000", "jpg")),
        ("00000.seg.png", ("00000", "seg.png")),
        ("a/b.c/00000.JPG", ("a/b.c/00000", "JPG")),
        ("./00000.jpg", ("./00000", "jpg")),
        ("a.b/no_extension", ("", "")),
        ("._00000.jpg", ("", "")),  # what macOS leaves
        ("a/.hidden", ("", "")),
        ("00000.", ("00000", "")),
    ],
)
def test_a_key_ends_at_the_first_dot(name, expected):
    """As webdataset's base_plus_ext splits them."""
    assert split_name(name.encode()) == tuple(part.encode() for part in expected)


def scanned(tmp_path, names, parts=PARTS):
    """(key, size of each part) of the samples of a tar whose members' sizes are 1, 2, 3 ..., and what was found."""
    data = write_tar(tmp_path / "x.tar", [(name, b"x" * size) for size, name in enumerate(names, 1)]).read_bytes()
    shard = scan(lambda at, length: data[at : at + length], len(data), parts)
    for row in shard.rows:
        assert data[int(row[3]) * 512 :].startswith(b"x" * int(row[4]))
    return [tuple(row[4::2]) for row in shard.rows.tolist()], shard


@pytest.mark.parametrize(
    ("names", "expected", "incomplete", "duplicates"),
    [
        (["a.jpg", "a.txt", "b.jpg", "b.txt"], [(1, 2), (3, 4)], 0, 0),
        (["a.txt", "a.json", "a.JPEG"], [(3, 1)], 0, 0),
        (["a.png", "a.jpg", "a.txt", "a.webp"], [(2, 3)], 0, 0),  # jpg is the first of the known
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
    assert (shard.incomplete, shard.duplicates, shard.problem) == (incomplete, duplicates, "")
    assert shard.members == len(names)


def test_other_parts(tmp_path):
    names = ["a.jpg", "a.seg.png", "a.txt", "a.json", "b.jpg", "b.txt"]
    parts = (("seg.png",), ("txt",), ("json",))
    found, shard = scanned(tmp_path, names, parts)
    assert found == [(2, 3, 4)] and shard.incomplete == 1
    assert shard.extensions == ("jpg", "json", "seg.png", "txt")


# ---------------------------------------------------------------- the file


def entries(counts):
    return {f"{i}.tar": Entry(10 * n, "9", n, 2 * n, 0, 0, "", ("jpg",), "d") for i, n in enumerate(counts)}


def some_index(counts, seed=0):
    rng = np.random.default_rng(seed)
    rows = {f"{i}.tar": rng.integers(0, 1 << 32, (n, 7), np.uint32) for i, n in enumerate(counts)}
    return Index(entries(counts), rows)


@pytest.mark.parametrize("counts", [[], [0], [3, 0, 5], [20_000, 30_000]])
def test_an_index_comes_back(tmp_path, counts):
    index, path = some_index(counts), str(tmp_path / "x.index")
    write_index(path, index, PARTS)
    back = read_index(path, PARTS)
    assert back.entries == index.entries and list(back.rows) == list(index.rows)
    for name, rows in index.rows.items():
        np.testing.assert_array_equal(back.rows[name], rows)
    assert os.listdir(tmp_path) == ["x.index"]


def test_a_damaged_index_counts_for_nothing(tmp_path):
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
        whole.replace(b'"pairs":30', b'"pairs":31'),
    ]
    damaged += [whole.replace(b'"pairs":30', b'"pears":30'), whole.replace(b'{"parts"', b'["parts"')]
    for data in damaged:
        path.write_bytes(data)
        assert read_index(str(path), PARTS) == EMPTY
    path.write_bytes(whole)
    assert read_index(str(path), PARTS[:1]) == EMPTY and read_index(str(tmp_path / "none"), PARTS) == EMPTY
    assert len(read_index(str(path), PARTS).entries) == 2


# ---------------------------------------------------------------- when it is made


@pytest.fixture
def scans(monkeypatch):
    """Names of the shards that are read."""
    read, names = build._Build._scan, []

    def noted(self, name, *rest):
        names.append(name)
        return read(self, name, *rest)

    monkeypatch.setattr(build._Build, "_scan", noted)
    return names


def opened(files, **options):
    return [(os.path.basename(tar.file), len(tar.rows)) for tar in open_indexes(files, PARTS, **options)]


def test_it_is_made_once_and_then_for_what_changed(tmp_path, scans):
    files = write_shards(tmp_path / "d", [3, 4, 5])
    assert opened(files) == [("00000.tar", 3), ("00001.tar", 4), ("00002.tar", 5)]
    assert sorted(scans) == ["00000.tar", "00001.tar", "00002.tar"]
    assert opened(files[::-1])[0] == ("00002.tar", 5) and len(scans) == 3

    write_tar(Path(files[1]), sample(7))
    assert opened(files)[1] == ("00001.tar", 1) and scans[3:] == ["00001.tar"]

    files += write_shards(tmp_path / "d", [2], first=3)
    assert opened(files)[3] == ("00003.tar", 2) and scans[4:] == ["00003.tar"]

    os.utime(files[0], (1, 1))  # of the same size
    assert opened(files[:2]) == [("00000.tar", 3), ("00001.tar", 1)] and scans[5:] == ["00000.tar"]
    assert opened(files)[3] == ("00003.tar", 2) and len(scans) == 6, "what was not asked for stays"

    opened(files, rebuild=True)
    assert len(scans) == 10


def test_other_parts_have_another_index(tmp_path, scans):
    files = write_shards(tmp_path / "d", [3])
    open_indexes(files, PARTS)
    open_indexes(files, (("jpg",), ("json",)))
    open_indexes(files, PARTS)
    assert len(scans) == 2
    assert sorted(os.listdir(tmp_path / "d" / FOLDER)) == ["jpg+json.index", "lock", "picture+txt.index"]


def test_the_rows_of_a_changed_shard_are_the_new_ones(tmp_path):
    files = write_shards(tmp_path / "d", [3, 3])
    before = open_indexes(files, PARTS)
    write_tar(Path(files[0]), [*sample(8), *sample(9)])
    after = open_indexes(files, PARTS)
    assert after[0].entry.digest != before[0].entry.digest and len(after[0].rows) == 2
    np.testing.assert_array_equal(after[1].rows, before[1].rows)
    assert len(before[0].rows) == 3, "whoever has opened the old one keeps it"


def test_a_folder_of_ones_own(tmp_path, scans):
    files = write_shards(tmp_path / "a", [3]) + write_shards(tmp_path / "b", [4])
    places = {tar.index for tar in open_indexes(files, PARTS, index_dir=str(tmp_path / "indexes"))}
    assert len(places) == 2 and {os.path.dirname(place) for place in places} == {str(tmp_path / "indexes")}
    assert opened(files, index_dir=str(tmp_path / "indexes")) == [("00000.tar", 3), ("00000.tar", 4)]
    assert len(scans) == 2 and not (tmp_path / "a" / FOLDER).exists()


def test_beside_tars_that_are_read_only(tmp_path, monkeypatch, caplog, scans):
    """A file in the folder's place stands for a file system that refuses, since root may write anywhere."""
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


def test_nowhere_to_write(tmp_path, monkeypatch):
    files = write_shards(tmp_path / "d", [1])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config.data.index_dir=.*file cannot be written"):
        open_indexes(files, PARTS, index_dir=str(tmp_path / "file"))
    (tmp_path / "d" / FOLDER).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the index cannot be written .*: set config.data.index_dir"):
        open_indexes(files, PARTS)


# ---------------------------------------------------------------- trouble in the tars


def test_files_that_are_no_tars_are_named_and_the_rest_is_kept(tmp_path, scans):
    files = write_shards(tmp_path, [3, 3, 3])
    Path(files[1]).write_text("<html>not found</html>" * 100)
    with pytest.raises(UserError, match=r"1 files are no tars: fetch them again.*00001.tar"):
        open_indexes(files, PARTS)
    assert opened([files[0], files[2]]) == [("00000.tar", 3), ("00002.tar", 3)] and len(scans) == 3


def test_compressed_files_under_a_tars_name(tmp_path):
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


# ---------------------------------------------------------------- processes


CODE = """
    import sys, logging
    logging.basicConfig(level="WARNING", format="%(message)s")
    from rankclip_jax.data.tars import build
    {patch}
    tars = build.open_indexes(sys.argv[1:], (("jpg", "jpeg", "png", "webp"), ("txt",)))
    print(sum(len(tar.rows) for tar in tars))
"""


def start(files, patch=""):
    code = textwrap.dedent(CODE).replace("{patch}", textwrap.dedent(patch))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *files], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


SLOWLY = """
import time
scan = build.scan
build.scan = lambda *args: (print("scan"), time.sleep(0.3), scan(*args))[2]
"""


def test_several_processes_at_once(tmp_path):
    files = write_shards(tmp_path, [20] * 4)
    outputs = [process.communicate(timeout=60) for process in [start(files, SLOWLY) for _ in range(4)]]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["80"] * 4, outputs
    assert sum(out.count("scan") for out, _ in outputs) == 4, "one of them reads the tars"
    assert sum("waiting for another process" in err for _, err in outputs) >= 1
    assert sorted(os.listdir(tmp_path / FOLDER)) == ["lock", "picture+txt.index"]


def test_several_processes_where_there_are_no_locks(tmp_path):
    files = write_shards(tmp_path, [20] * 4)
    outputs = [p.communicate(timeout=60) for p in [start(files, "build.fcntl = None\n" + SLOWLY) for _ in range(3)]]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["80"] * 3, outputs
    assert len(open_indexes(files, PARTS)) == 4


KILLS = {
    "before the file has its name": "build.write_index.__globals__['os'].replace = lambda *_: os.kill(os.getpid(), 9)",
    "half written": """
        def half(file):
            os.truncate(file, 100)
            os.kill(os.getpid(), 9)
        build.write_index.__globals__['os'].fsync = half
    """,
    "with some shards saved": """
        import time
        build.SAVE_SECONDS, build.THREADS, writes = 0, 1, []
        scan, write = build.scan, build.write_index
        build.scan = lambda *args: (time.sleep(0.2), scan(*args))[1]
        build.write_index = lambda *args: (write(*args), writes.append(0), len(writes) == 2 and os.kill(os.getpid(), 9))
    """,
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_while_it_is_made(tmp_path, when, scans):
    files = write_shards(tmp_path, [20] * 4)
    process = start(files, "import os\n" + textwrap.dedent(KILLS[when]))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert opened(files) == [(os.path.basename(file), 20) for file in files]
    assert sorted(os.listdir(tmp_path / FOLDER)) == ["lock", "picture+txt.index"], "nothing is left behind"
    assert len(scans) == (2 if "saved" in when else 4)


def test_interrupted_while_it_is_made(tmp_path, scans):
    """What was done by then is kept, and threads do not go on."""
    files = write_shards(tmp_path, [20] * 40)
    process = start(files, "import time\nbuild.THREADS = 1" + SLOWLY)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in err
    assert len(opened(files)) == 40
    assert 40 - len(scans) in (out.count("scan") - 1, out.count("scan"))
