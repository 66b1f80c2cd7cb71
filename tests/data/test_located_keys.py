"""Keys are unique only inside one location: with several, they begin with their location."""

import json
import logging

import pytest

from rankclip_jax.errors import UserError
from tests.support import pair_files
from tests.support.data_commands import config_of
from tests.support.pair_files import (
    COUNT,
    jpeg,
    keys,
    write_array_record,
    write_parquet,
    write_saved_dataset,
    write_tars,
)


def load(folder, name="webdataset", **options):
    return pair_files.load(name, folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets in every format whose keys are the same inside each set; the second has other pairs."""
    folder = tmp_path_factory.mktemp("sets")
    for name, numbers in (("a", range(12)), ("b", range(12, COUNT))):
        (folder / name).mkdir()
        write_tars(folder / name / "tars", numbers)
        images = [{"bytes": jpeg(number), "path": None} for number in numbers]
        texts = [pair_files.caption(number) for number in numbers]
        write_parquet(folder / name / "train.parquet", {"image": images, "text": texts})
        write_saved_dataset(folder / name / "saved", range(numbers[0], numbers[0] + 12))
        write_array_record(folder / name / "x.array_record", range(12))
    # as img2dataset: the same names of tars and members
    for tar in (folder / "b" / "tars").iterdir():
        data = tar.read_bytes()
        for number in range(12, COUNT):
            data = data.replace(f"{number:09d}.".encode(), f"{number - 12:09d}.".encode())
        tar.write_bytes(_with_checksums(data))
    return folder


def _with_checksums(data):
    """Tar headers with right checksums, after a change of names of equal length."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = f"{sum(block):06o}\0 ".encode()
    return b"".join(blocks)


SETS = [
    ("webdataset", "{}/tars"),
    ("parquet", "{}/train.parquet"),
    ("huggingface", "{}/saved"),
    ("arrayrecord", "{}/x.array_record"),
]


@pytest.mark.parametrize(("name", "location"), SETS)
def test_keys_of_several_locations(folder, name, location):
    first, second = location.format("a"), location.format("b")
    single = [keys(load(folder, name, train=one).train) for one in (first, second)]
    assert single[0] == single[1], "the same keys inside each set"
    train = load(folder, name, train=f"0.5 {first} | 0.5 {second}").train
    assert keys(train) == [f"{first}:{key}" for key in single[0]] + [f"{second}:{key}" for key in single[1]]
    pairs = train.pairs
    assert pairs.find({f"{second}:{single[1][3]}", single[0][0], f"{first}:none"}).tolist() == [15]


def test_second_captions_of_two_sets_with_equal_keys(folder, run_data, tmp_path):
    """The command writes captions of both sets, and each image gets its own."""
    out, train = tmp_path / "second.jsonl", "a/tars | b/tars"
    options = {"root": str(folder), "name": "webdataset", "train": train}
    assert f"{COUNT} second captions written" in run_data("captions", config_of(folder, **options), f"--out={out}")
    data = load(folder, train=train, second_captions=str(out)).train
    for index in range(COUNT):
        assert len(data.second_captions(index)) == 1
    texts = {json.loads(line)["key"]: json.loads(line)["second_caption"] for line in out.read_text().splitlines()}
    assert len(texts) == COUNT and [data.second_captions(i)[0] for i in range(COUNT)] == list(texts.values())
    assert "0 second captions written" in run_data("captions", config_of(folder, **options), f"--out={out}")


def test_keys_without_a_location_in_a_file_of_second_captions(folder, tmp_path):
    bare = keys(load(folder, train="a/tars").train)
    lines = [json.dumps({"key": key, "second_caption": f"second of {key}"}) for key in bare]
    (tmp_path / "second.jsonl").write_text("\n".join(lines))
    options = {"second_captions": str(tmp_path / "second.jsonl")}
    with pytest.raises(UserError, match=r"the keys in .*second.jsonl have no location.*such as a/tars:"):
        load(folder, train="a/tars | b/tars", **options)
    data = load(folder, train="a/tars", test="b/tars", **options)  # one training location: nothing to confuse
    assert data.train.second_captions(3) == (f"second of {bare[3]}",) and data.train.key(3) == f"a/tars:{bare[3]}"


def quarantine(tmp_path, *bad):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps({"key": key, "reason": "x"}) + "\n" for key in bad))
    return str(path)


def test_a_quarantined_pair_leaves_equal_keys_alone(folder, tmp_path, caplog):
    bad = keys(load(folder, train="a/tars").train)[5]
    listed = quarantine(tmp_path, f"b/tars:{bad}")
    data = load(folder, train="a/tars | b/tars", quarantine=listed)
    assert len(data.train) == COUNT - 1 and f"a/tars:{bad}" in keys(data.train)
    assert load(folder, train="a/tars", test="b/tars", quarantine=listed).counts == {"train": 12, "test": 11}
    with pytest.raises(UserError, match=f"quarantine lists {bad}, which is in a/tars and in b/tars: .*data validate"):
        load(folder, train="a/tars | b/tars", quarantine=quarantine(tmp_path, bad))
    mixed = load(folder, train="a/tars | parquet:b/train.parquet", quarantine=quarantine(tmp_path, bad))
    assert len(mixed.train) == COUNT - 1, "only one location has it"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        load(folder, train="a/tars", quarantine=quarantine(tmp_path, "other"))
    assert "no pair has a key of" in caplog.text


def test_locations_that_differ_in_secrets_or_splits(folder):
    saved = load(folder, "huggingface", train="a/saved#train | b/saved#train").train
    assert saved.key(0) == "a/saved#train:data-00000-of-00002.arrow:0"
    from rankclip_jax.data.sources.assemble import _prefixes
    from rankclip_jax.data.sources.formats import Location

    found = [Location(0.5, "csv", f"https://h/a.csv?key={key}", "") for key in (1, 2)]
    assert list(_prefixes(found).values()) == ["https://h/a.csv?key=REDACTED:", "https://h/a.csv?key=REDACTED (2):"]


def test_files_of_one_location_in_several_folders(folder):
    train = load(folder, "parquet", train="{a,b}/train.parquet").train
    assert [train.key(i) for i in (0, 12)] == ["a/train.parquet:0", "b/train.parquet:0"]
