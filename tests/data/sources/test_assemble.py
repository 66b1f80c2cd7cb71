"""From config.data to a data set: locations, held-out pairs, limits, quarantine, digests, splits."""

import numpy as np
import pytest

from rankclip_jax.config import base
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.sources.formats import FORMATS, Location, parse_locations
from rankclip_jax.errors import UserError
from tests.support import pair_files
from tests.support.pair_files import jpeg, keys, write_all, write_csv, write_images, write_jsonl

LOCATIONS = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs in every format, and tables without images, of 100, 30 and 7 pairs: a0 ..., b0 ..., c0 ...."""
    folder = tmp_path_factory.mktemp("pairs")
    LOCATIONS.update(write_all(folder))
    pair_files.write_tables(folder, a=100, b=30, c=7)
    return folder


def load(folder, name="csv", **options):
    return pair_files.load(name, folder, **options)


def refused(folder, message, **options):
    with pytest.raises(UserError, match=message) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- locations


def test_locations_are_parsed():
    text = "0.7 csv:A.csv | .3 coco:B#x.json#train+restval"
    assert parse_locations(text, "jsonl", "train") == [
        Location(0.7, "csv", "A.csv", ""),
        Location(0.3, "coco", "B#x.json", "train+restval"),
    ]
    for location in ("a/{00..11}.tar::b.tar", "https://x.org/a.csv", "gs://bucket/a", "2024/a#1.csv", "C:/pairs.csv"):
        assert parse_locations(location, "csv", "train") == [Location(None, "csv", location, "")]
    assert parse_locations("tfds:cifar10/3.0.2#train[:10%]", "csv", "test")[0].split == "train[:10%]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cvs:a.csv", "unknown format in key 'cvs'. Did you mean 'csv'"),
        ("0.5 a.csv | b.csv", "1 of 2 locations have a weight: give all of them one, or none"),
        ("0 a.csv", "weight 0 of 'a.csv' must be a positive number"),
        ("-1 a.csv", "weight -1 of"),
        ("a.csv |", "a term without a location"),
        ("csv:", "a term without a location"),
    ],
)
def test_invalid_locations(text, message):
    with pytest.raises(UserError, match=message):
        parse_locations(text, "csv", "key")


def test_every_format_gives_the_same_data(folder):
    for name, location in LOCATIONS.items():
        assert name in FORMATS
        data = load(folder, name, train=location, val_pairs=4)
        assert data.counts == {"train": 20, "val": 4} and data.name == name
        other = load(folder, "csv", train=f"{name}:{location}", val_pairs=4)
        assert keys(other.train) == keys(data.train) and other.digest == data.digest


def test_missing_locations(folder):
    refused(folder, "config.data.name='csv' needs config.data.train")
    refused(folder, r"no file at .*none.csv: check the path.", train="none.csv")


@pytest.mark.parametrize(("name", "key"), [("emoji", "train"), ("emoji", "second_captions"), ("csv", "styles")])
def test_keys_of_another_source_are_refused(name, key):
    message = f"config.data.{key} is 'x', which config.data.name='{name}' does not read: (name the format|leave it out)"
    data = base.get_config().data
    data.name, data[key] = name, "x"
    with pytest.raises(UserError, match=message):
        SOURCES[name](data)


# ---------------------------------------------------------------- which pairs


def test_a_smaller_limit_is_part_of_a_larger_one(folder):
    """The held-out pairs stay the same, and are never trained on."""
    sets, held_out = [], set()
    for limit in (10, 40, 0):
        data = load(folder, train="a.csv | b.csv", train_limit=limit, val_pairs=20)
        assert len(data.train) == limit or len(data.train) == 110
        sets.append(set(keys(data.train)))
        held_out.add(tuple(data.evals["val"].texts))
    assert sets[0] < sets[1] < sets[2] and len(held_out) == 1
    held_out = {text.removeprefix("caption of ") for text in held_out.pop()}
    assert len(held_out) == 20 and not held_out & sets[2] and len(held_out | sets[2]) == 130
    assert 0 < sum(key.startswith("b") for key in sets[1]) < 30  # drawn from both
    numbers = [int(key[1:]) for key in keys(load(folder, train="a.csv", train_limit=50).train)]
    assert min(numbers) < 10 and max(numbers) >= 90 and numbers != sorted(numbers)  # drawn from all pairs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_limit": -1}, "config.data.train_limit is -1; use 0"),
        ({"val_pairs": -1}, "config.data.val_pairs is -1; use 0"),
        ({"train_limit": 101}, "train_limit=101 and val_pairs=0 exceed the 100 usable pairs"),
        ({"train_limit": 99, "val_pairs": 2}, "exceed the 100 usable pairs"),
        ({"val_pairs": 100}, "val_pairs=100 exceed the 100 usable pairs"),
        ({"val_pairs": 5, "val": "b.csv"}, "config.data.val and config.data.val_pairs both define the split `val`"),
        ({"val": "0.5 b.csv | 0.5 c.csv"}, "config.data.val has weights, but every split is evaluated on its own"),
        ({"quarantine": "/none.jsonl"}, "cannot read config.data.quarantine=/none.jsonl"),
    ],
)
def test_invalid_choices(folder, options, message):
    refused(folder, message, train="a.csv", **options)


def test_quarantined_pairs_are_left_out(folder, tmp_path):
    bad = ["a5", "a17", "b2", "no pair"]
    listed = str(write_jsonl(tmp_path, [{"key": key, "reason": "truncated"} for key in bad]))
    data = load(folder, train="a.csv | c.csv", test="b.csv", quarantine=listed)
    left = [f"a.csv:a{i}" for i in range(100) if i not in (5, 17)] + [f"c.csv:c{i}" for i in range(7)]
    assert keys(data.train) == left
    assert data.counts == {"train": 105, "test": 29} and "caption of b2" not in data.evals["test"].texts
    without = load(folder, train="a.csv", val_pairs=50, train_limit=10)
    within = load(folder, train="a.csv", val_pairs=50, train_limit=10, quarantine=listed)
    assert set(without.evals["val"].texts) - set(within.evals["val"].texts) <= {"caption of a5", "caption of a17"}
    assert len(within.train) == 10
    for lines in ("no json", '{"reason": "x"}', "[1]"):
        (tmp_path / "bad.jsonl").write_text(f'{{"key": "a", "reason": ""}}\n{lines}\n')
        refused(folder, r"bad.jsonl, line 2: expected \{", train="a.csv", quarantine=str(tmp_path / "bad.jsonl"))
    all_of_c = write_jsonl(tmp_path, [{"key": f"c{i}", "reason": "x"} for i in range(7)], "c.jsonl")
    refused(folder, "every pair of c.csv is in quarantine", train="c.csv", quarantine=str(all_of_c))
    refused(
        folder, "no pair of c.csv is left, but it has a weight", train="0.5 a.csv | 0.5 c.csv", quarantine=str(all_of_c)
    )


def test_without_training_data_there_is_nothing_to_hold_out(folder):
    """As in a config for training that is used for evaluation."""
    data = load(folder, test="b.csv", val_pairs=50, train_limit=9)
    assert data.counts == {"train": 0, "test": 30}


def test_quarantine_of_a_source_without_an_index(folder, tmp_path):
    listed = str(write_jsonl(tmp_path, [{"key": "k3", "reason": "x"}]))
    data = load(folder, "arrayrecord", train="pairs.array_record", quarantine=listed)
    assert len(data.train) == 23 and "k3" not in keys(data.train)


# ---------------------------------------------------------------- digests


def test_the_digest_covers_the_pairs_and_their_selection(folder, tmp_path):
    listed = str(write_jsonl(tmp_path, [{"key": "a1", "reason": "x"}]))
    digests = [
        load(folder, **options).digest
        for options in (
            {"train": "a.csv"},
            {"train": "a.csv", "val_pairs": 5},
            {"train": "a.csv", "train_limit": 5},
            {"train": "a.csv", "test": "b.csv"},
            {"train": "a.csv", "val": "b.csv"},
            {"train": "a.csv", "quarantine": listed},
            {"train": "b.csv | a.csv"},
            {"train": "a.csv | b.csv"},
            {"train": "1 a.csv | 1 b.csv"},
            {"train": "1 a.csv | 2 b.csv"},
        )
    ]
    assert len(set(digests)) == len(digests)
    (tmp_path / "moved.csv").write_bytes((folder / "a.csv").read_bytes())
    assert load(tmp_path, train="moved.csv").digest == digests[0]


# ---------------------------------------------------------------- splits


def test_splits_of_captions(folder):
    data = load(folder, train="a.csv", val="pairs.csv", test="coco:coco.json | jsonl:pairs.jsonl")
    assert list(data.evals) == ["val", "test_1", "test_2"] and list(data.counts) == ["train", "val", "test_1", "test_2"]
    for split in data.evals.values():
        assert len(split.images) == 24 and not split.classes
        np.testing.assert_array_equal(split.image_ids, split.text_ids)
        assert split.images[7].size == (20, 22)


def test_several_captions_match_their_image(tmp_path):
    write_images(tmp_path, 3)
    rows = [(f"pics/00{i}.jpg", text) for i, text in ((0, "a"), (1, "b"), (0, "c"), (1, ""), (2, ""), (1, "d"))]
    split = load(tmp_path, train=str(write_csv(tmp_path, rows)), test="pairs.csv").evals["test"]
    assert split.texts == ("a", "c", "b", "d") and split.text_ids.tolist() == [0, 0, 1, 1]
    assert len(split.images) == 2 and split.image_ids.tolist() == [0, 1]  # the third has no caption
    write_csv(tmp_path, [("x", ""), ("y", "nan")], name="none.csv")
    refused(
        tmp_path,
        "none of the 2 pairs of split 'test' has a caption. First: none.csv:x",
        train="pairs.csv",
        test="none.csv",
    )


def test_splits_of_classes(folder, tmp_path):
    for number, name in enumerate(("cat/0.jpg", "cat/1.jpg", "red_fox/2.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(number))
    templates = ("a photo of a {}.", "the {}")
    data = load(folder, train="a.csv", test=f"image_folder:{tmp_path}", templates=templates)
    split = data.evals["test"]
    assert split.texts == ("a photo of a cat.", "a photo of a red fox.") and split.text_ids.tolist() == [0, 1]
    assert split.image_ids.tolist() == [0, 0, 1]
    classes = split.classes["class"]
    assert classes.names == ("cat", "red fox") and classes.templates == templates
    assert classes.image_labels.tolist() == [0, 0, 1] and classes.text_labels.tolist() == [0, 1]
    held_out = load(tmp_path, "image_folder", train=str(tmp_path), val_pairs=2)
    assert held_out.evals["val"].classes["class"].names == ("cat", "red fox") and len(held_out.train) == 1
    train = load(tmp_path, "image_folder", train=str(tmp_path)).train
    assert train.classes == {"class": ("cat", "red fox")} and train.labels("class").tolist() == [0, 0, 1]
    assert not data.train.classes
    with pytest.raises(KeyError):
        data.train.labels("class")


def test_an_unreadable_image_is_white_and_logged_once(tmp_path, caplog):
    write_images(tmp_path, 4)
    (tmp_path / "pics/001.jpg").write_bytes(jpeg(1)[:200])
    (tmp_path / "pics/002.jpg").unlink()
    write_csv(tmp_path, [(f"pics/00{i}.jpg", "x") for i in range(4)])
    images = load(tmp_path, train="pairs.csv", test="pairs.csv").evals["test"].images
    assert np.asarray(images[0]).std() > 10 and not caplog.text and not images.unreadable
    for _ in range(2):
        assert np.asarray(images[1]).min() == 255 and np.asarray(images[1:3][1]).min() == 255
    assert images.unreadable == {1, 2} and caplog.text.count("is evaluated as white") == 2
    assert "pics/001.jpg is evaluated as white: ImageError: truncated" in caplog.text
    assert len(images[np.array([3, 0])]) == 2 and np.asarray(images[np.array([3, 0])][0]).std() > 10


def test_a_number_that_begins_a_path_is_no_weight(tmp_path):
    (tmp_path / "2014 photos").mkdir()
    (tmp_path / "2014 photos" / "a.csv").write_text("image,caption\na.jpg,one\n")
    for path in ("2014 photos/a.csv", "2014 photos/*.csv", "2014 ph*/a.csv", "2014 {photos,pics}/a.csv", "2014 photos"):
        assert parse_locations(path, "csv", "train", str(tmp_path)) == [Location(None, "csv", path, "")]
    found = parse_locations("0.5 csv:2014 photos/a.csv | 2 2014 photos", "csv", "train", str(tmp_path))
    assert found == [Location(0.5, "csv", "2014 photos/a.csv", ""), Location(2, "csv", "2014 photos", "")]
    assert parse_locations("2014 none/*.csv", "csv", "train", str(tmp_path))[0].weight == 2014
