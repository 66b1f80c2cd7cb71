"""How many of the tars are asked for their sizes."""

import pytest

from rankclip_jax.data.storage import locations
from rankclip_jax.data.tars.build import open_indexes
from rankclip_jax.data.tars.stamps import CHECKED, stamps_of
from rankclip_jax.errors import UserError
from tests.support.tar_files import write_shards

FILES = [f"gs://bucket/{number:06d}.tar" for number in range(5 * CHECKED)]


@pytest.fixture
def asked(monkeypatch):
    """Files whose stamps are requested; those in `changed` have another size."""
    found = []

    def stamp(path):
        found.append(path)
        if "missing" in path:
            raise FileNotFoundError(path)
        return (2 if path in changed else 1), "tag"

    changed = set()
    monkeypatch.setattr(locations, "stamp", stamp)
    found_and_changed = (found, changed)
    return found_and_changed


def test_a_sample_of_many_known_remote_files(asked):
    found, changed = asked
    known = dict.fromkeys(FILES, (1, "tag"))
    assert stamps_of(FILES, known) == [(1, "tag")] * len(FILES)
    assert len(found) == CHECKED and found[0] == FILES[0] and max(found) > FILES[-10]
    changed.add(sorted(found)[3])
    found.clear()
    assert [size for size, _ in stamps_of(FILES, known)].count(2) == 1
    assert len(set(found)) == len(FILES), "after a change all files are asked for"


def test_all_files_if_there_are_few_or_unknown_ones_or_on_request(asked):
    found, changed = asked
    known = dict.fromkeys(FILES, (1, "tag"))
    changed.add(FILES[7])
    for files, given, check_all in ((FILES, {}, False), (FILES, known, True), (FILES[:CHECKED], known, False)):
        found.clear()
        assert stamps_of(files, given, check_all)[7] == (2, "tag") and sorted(found) == files
    local = [f"/data/{number}.tar" for number in range(2 * CHECKED)]
    found.clear()
    assert len(stamps_of(local, dict.fromkeys(local, (1, "tag")))) == len(found) == 2 * CHECKED
    assert stamps_of([], {}) == []


def test_a_missing_file_is_named(asked):
    with pytest.raises(UserError, match=r"no tar at gs://bucket/missing\.tar"):
        stamps_of([*FILES[:70], "gs://bucket/missing.tar"], {})


def test_the_command_asks_for_all_and_training_for_some(tmp_path, monkeypatch):
    monkeypatch.setattr("rankclip_jax.data.tars.stamps.CHECKED", 2)
    monkeypatch.setattr(locations, "is_url", lambda path: True)  # local files as if they were remote
    monkeypatch.setattr(locations.remote_files, "stamp", locations.local_files.stamp)
    monkeypatch.setattr(locations.remote_files, "read_range", locations.local_files.read_range)
    files = write_shards(tmp_path / "d", [2] * 9)
    index_dir = str(tmp_path / "index")
    parts = (("jpg",), ("txt",))
    assert sum(len(tar.rows) for tar in open_indexes(files, parts, index_dir)) == 18
    write_shards(tmp_path / "d", [5], first=1)  # 00001.tar, which is not in the sample
    assert sum(len(tar.rows) for tar in open_indexes(files, parts, index_dir)) == 18
    assert sum(len(tar.rows) for tar in open_indexes(files, parts, index_dir, check_all=True)) == 21
