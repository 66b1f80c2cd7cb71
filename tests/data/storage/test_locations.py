"""Locations with globs and ranges; local files read by many threads, forked processes and pickled readers."""

import logging
import multiprocessing
import os
import pickle
import threading

import fsspec
import numpy as np
import pytest

from rankclip_jax.data.storage import local_files, locations, ranges
from rankclip_jax.errors import UserError
from tests.support import pair_files


@pytest.fixture
def folder(tmp_path):
    for name in ("00000.tar", "00001.tar", "00003.tar", "x[1].tar", "00000.txt", ".hidden.tar"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "00009.tar").touch()
    return tmp_path


def names(location, root, extensions=()):
    return [os.path.relpath(file, root) for file in locations.expand(location, str(root), extensions)]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("00000.tar", ["00000.tar"]),
        ("*.tar", ["00000.tar", "00001.tar", "00003.tar", "x[1].tar"]),
        ("0000[13].tar", ["00001.tar", "00003.tar"]),
        ("**/*.tar", ["00000.tar", "00001.tar", "00003.tar", "deep/er/00009.tar", "x[1].tar"]),
        ("x[1].tar", ["x[1].tar"]),
        ("{00000..00001}.tar", ["00000.tar", "00001.tar"]),
        ("0000{3,0}.tar", ["00003.tar", "00000.tar"]),
        ("{0000{0..1},00003}.tar", ["00000.tar", "00001.tar", "00003.tar"]),
        ("00003.tar::00000.t*", ["00003.tar", "00000.tar", "00000.txt"]),
        ("{00000..00003..3}.tar", ["00000.tar", "00003.tar"]),
        (".", ["00000.tar", "00001.tar", "00003.tar", "x[1].tar"]),
        ("deep/{er,er}", ["deep/er/00009.tar"] * 2),
    ],
)
def test_expand(folder, location, expected):
    assert names(location, folder, (".tar",)) == expected
    assert all(os.path.isabs(file) for file in locations.expand(location, str(folder), (".tar",)))


def test_a_folder_stands_for_itself_if_the_format_has_no_extensions(folder):
    assert names("deep", folder) == ["deep"]


def test_ranges_expand_as_in_a_shell(folder):
    """As in bash: `{8..11}` has no leading zeros, `{08..10}` has."""
    found = [list(ranges.expand_braces(text)) for text in ("{8..11}", "{08..10}", "a{1,}b", "{a,b}{1..2}")]
    assert found == [["8", "9", "10", "11"], ["08", "09", "10"], ["a1b", "ab"], ["a1", "a2", "b1", "b2"]]


def test_the_root_is_not_a_pattern(tmp_path):
    root = tmp_path / "a{1..2}[x]*"
    root.mkdir()
    (root / "0.tar").touch()
    assert locations.expand("*.tar", str(root)) == [str(root / "0.tar")]
    assert locations.expand("{0..0}.tar", str(root)) == [str(root / "0.tar")]


def test_home_and_current_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder / "deep")
    assert locations.expand("~/00000.tar") == [str(folder / "00000.tar")]
    assert locations.expand("00000.tar", "~") == [str(folder / "00000.tar")]
    assert locations.expand("er/*.tar") == [str(folder / "deep" / "er" / "00009.tar")]


def test_a_gap_in_a_range_is_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert names("{00000..00009}.tar", folder) == ["00000.tar", "00001.tar", "00003.tar"]
    assert "7 of 10 files are missing" in caplog.text and "00002.tar" in caplog.text


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "a data location is empty"),
        ("none.tar", "no file at .*none.tar: check the path. It is relative to config.data.root"),
        ("*.zip", "no file at .*[*].zip"),
        ("{00007..00009}.tar", "no file at"),
        ("{00000,00007}.tar", "no file at .*00007.tar, one of [{]00000,00007[}].tar"),
        ("{00000..00003.tar", "a brace is not closed"),
        ("{00000-00003}.tar", "{00000-00003} is invalid: write a range {00000..00331}"),
        ("{3..1}.tar", "the range {3..1} is empty"),
        ("{0..99999999999}.tar", "names more than 1,000,000 files"),
        ("00000.tar::none.tar", "no file at .*none.tar"),
        ("deep", r"no .tar files in .*deep"),
        ("https://host/*.tar", "web servers do not list files"),
        ("nosuch://a/*.tar", "nosuch:// cannot be read here"),
    ],
)
def test_mistakes(folder, location, message):
    with pytest.raises(UserError, match=message) as caught:
        locations.expand(location, str(folder), (".tar",))
    assert "\n" not in str(caught.value)


def test_urls():
    files = locations.expand("{000..002}.tar", "https://host/a/")
    assert files == ["https://host/a/000.tar", "https://host/a/001.tar", "https://host/a/002.tar"]
    assert locations.expand("https://host/a.tar?key=1", "/data") == ["https://host/a.tar?key=1"]


def test_secrets_are_environment_variables(monkeypatch):
    monkeypatch.setenv("TOKEN", "a/b")
    url = "https://me:$TOKEN@host/{0..1}.tar?token=$TOKEN"
    assert locations.expand(url) == [f"https://me:a/b@host/{number}.tar?token=a/b" for number in (0, 1)]
    monkeypatch.delenv("TOKEN")
    with pytest.raises(UserError, match="the environment variable TOKEN is not set"):
        locations.expand(url)
    with pytest.raises(UserError, match=r"the secrets of .* are not stored with the run: .*'https://.*token=.TOKEN'"):
        locations.expand("https://REDACTED@host/a.tar")


def test_a_file_url_is_a_local_file(folder):
    assert locations.expand(f"file://{folder}/0*.tar") == locations.expand(f"{folder}/0*.tar")
    assert locations.read(f"file://{folder}/00000.tar") == b"00000.tar" and locations.is_local(f"file://{folder}")


def test_links_of_a_glob_are_followed_once(folder):
    (folder / "deep" / "back").symlink_to(folder)
    expected = ["00000.tar", "00001.tar", "00003.tar", "deep/er/00009.tar", "x[1].tar"]
    assert names("**/*.tar", folder) == expected


def test_a_folder_of_several_splits(folder):
    for name in ("a-train-0.tar", "a-val-0.tar"):
        (folder / "deep" / name).touch()
    message = (
        r"deep holds several splits \(train, validation\): name the files of one by a glob, such as .*/deep/\*train\*"
    )
    with pytest.raises(UserError, match=message):
        names("deep", folder, (".tar",))
    assert names("deep/*train*", folder) == ["deep/a-train-0.tar"]
    fsspec.filesystem("memory").pipe({"/splits/test.tar": b"", "/splits/train.tar": b""})
    with pytest.raises(UserError, match=r"memory://splits/ holds several splits \(test, train\)"):
        locations.expand("memory://splits/", extensions=(".tar",))


@pytest.mark.parametrize("read", [locations.read, lambda path: locations.read_range(path, 0, 1)])
def test_pipes_and_devices_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe")):
        with pytest.raises(OSError, match="is a pipe or a device, not a file"):
            read(path)
        with pytest.raises(UserError, match=r"is a pipe or a device, not a file.: name another file"):
            locations.check_files([path])


def test_pointers_of_git_lfs(tmp_path):
    pointer = tmp_path / "a.tar"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(OSError, match=r"a.tar is a pointer of git-lfs instead of data: run `git lfs pull`"):
        locations.read(str(pointer))
    for name in ("webdataset", "parquet", "csv", "jsonl", "coco", "arrayrecord"):
        with pytest.raises(UserError, match="pointers of git-lfs instead of data: run `git lfs pull`"):
            pair_files.load(name, tmp_path, train="a.tar")


def test_other_systems_through_fsspec():
    system = fsspec.filesystem("memory")
    system.pipe({"/shards/0.tar": b"hello", "/shards/1.tar": b"world!"})
    files = locations.expand("memory://shards/*.tar")
    assert files == ["memory:///shards/0.tar", "memory:///shards/1.tar"]
    assert locations.expand("memory://shards/", extensions=(".tar",)) == files
    assert locations.read(files[1]) == b"world!" and locations.size(files[1]) == 6
    assert locations.read_range(files[0], 1, 3) == b"ell"
    assert locations.exists(files[0]) and not locations.exists("memory://shards/2.tar")
    with pytest.raises(EOFError, match="ends at byte 5, expected 7"):
        locations.read_range(files[0], 4, 3)


# ---------------------------------------------------------------- local files


@pytest.fixture
def files(tmp_path):
    """40 files of 1,000 uint32 values; value k of file i is 1,000 i + k."""
    files = [str(tmp_path / f"{i}.bin") for i in range(40)]
    for i, file in enumerate(files):
        (np.arange(1000, dtype=np.uint32) + 1000 * i).tofile(file)
    local_files._begin()
    return files


def wrong_reads(files, seed, count):
    """The number of wrong results among `count` random reads."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(count):
        i, start = rng.integers(len(files)), rng.integers(990)
        found = np.frombuffer(locations.read_range(files[i], 4 * start, 40), np.uint32)
        wrong += not np.array_equal(found, np.arange(start, start + 10) + 1000 * i)
    return wrong


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_many_threads_and_few_descriptors(files, monkeypatch):
    monkeypatch.setattr(local_files, "_limit", lambda: 5)
    local_files._begin()
    before, wrong = open_files(), []
    threads = [
        threading.Thread(target=lambda seed=seed: wrong.append(wrong_reads(files, seed, 2000))) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 8
    assert open_files() <= before + 5


def test_forked_and_pickled(files):
    reader = pickle.loads(pickle.dumps(locations.read_range))
    assert reader(files[0], 4, 4) == (1).to_bytes(4, "little")
    local_files._descriptors.lock.acquire()  # as by a thread that the child does not have
    try:
        pool = multiprocessing.get_context("fork").Pool(2)
    finally:
        local_files._descriptors.lock.release()
    with pool:
        assert pool.starmap_async(wrong_reads, [(files, seed, 500) for seed in range(4)]).get(30) == [0] * 4


def test_a_replaced_file_is_read_as_it_was_until_forgotten(files):
    assert locations.read_range(files[0], 0, 4) == bytes(4)
    os.remove(files[0])
    assert locations.read_range(files[0], 0, 4) == bytes(4)
    local_files.forget(files[0])
    with pytest.raises(FileNotFoundError):
        locations.read_range(files[0], 0, 4)
    assert not locations.exists(files[0]) and not locations.exists(files[1] + "/x")


def test_the_end_of_a_file(files):
    assert locations.read_range(files[1], 3996, 4) == (1999).to_bytes(4, "little")
    assert locations.read(files[1])[-4:] == (1999).to_bytes(4, "little")
    with pytest.raises(EOFError, match="ends at byte 4000, expected 4001"):
        locations.read_range(files[1], 3990, 11)
    with pytest.raises(EOFError):
        locations.read_range(files[1], 5000, 1)
