"""Tables with a column of splits: several splits are never poured together."""

import pyarrow as pa
import pytest

from rankclip_jax.data.sources.split_column import rows_of_splits, split_column
from rankclip_jax.errors import UserError
from tests.support.pair_files import jpeg, keys, load, write_csv, write_jsonl, write_parquet

SPLITS = ["train", "val", "test", "train", "restval", "test"]
NAMES = [f"{number}.jpg" for number in range(6)]


def write(folder, kind, splits=SPLITS, column="Split"):
    """Write a table, whose images are paths, or bytes for "bytes"; return its format and location."""
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(jpeg(number))
    texts = [f"a fox of {name}" for name in NAMES]
    if kind == "csv":
        write_csv(folder, list(zip(NAMES, texts, splits, strict=True)), header=("filepath", "title", column))
        return "csv", "pairs.csv"
    if kind == "jsonl":
        rows = zip(NAMES, texts, splits, strict=True)
        write_jsonl(folder, [{"image": name, "caption": [text], column: split} for name, text, split in rows])
        return "jsonl", "pairs.jsonl"
    images = [jpeg(number) for number in range(6)] if kind == "bytes" else NAMES
    write_parquet(folder / "pairs.parquet", {"image": images, "caption": texts, column: splits}, group=2)
    return "parquet", "pairs.parquet"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "paths", "bytes"])
def test_a_column_of_splits(tmp_path, kind):
    name, file = write(tmp_path, kind)
    found = load(name, tmp_path, train=f"{file}#train+restval", test=f"{file}#test")
    assert [found.train.captions(index) for index in range(3)] == [(f"a fox of {n}.jpg",) for n in (0, 3, 4)]
    assert found.evals["test"].texts == ("a fox of 2.jpg", "a fox of 5.jpg")
    assert [found.train.pairs.image_bytes(index) for index in range(3)] == [jpeg(n) for n in (0, 3, 4)]
    with pytest.raises(UserError, match=rf"{file} holds several splits: name one .*#train. Known: train, val, test"):
        load(name, tmp_path, train=file)
    with pytest.raises(UserError, match=r"unknown split .*'tset'.*Did you mean 'test'"):
        load(name, tmp_path, train=f"{file}#tset")
    assert load(name, tmp_path, train=f"{file}#val").digest != load(name, tmp_path, train=f"{file}#train").digest


@pytest.mark.parametrize("kind", ["csv", "jsonl", "bytes"])
def test_columns_that_are_no_splits(tmp_path, kind):
    name, file = write(tmp_path, kind, splits=list("abcabc"), column="subset")
    assert len(load(name, tmp_path, train=file).train) == 6
    name, file = write(tmp_path, kind, column="notes")
    assert len(load(name, tmp_path, train=file).train) == 6
    with pytest.raises(UserError, match="has no column of splits, such as 'split': leave out #train"):
        load(name, tmp_path, train=f"{file}#train")


@pytest.mark.parametrize(("split", "numbers"), [("train", [0, 3]), ("test", [2, 5])])
def test_a_file_of_the_hub_with_all_splits(tmp_path, split, numbers):
    """Flickr30k on the hub: every row is in a file named "test", and a column has the splits."""
    write(tmp_path, "bytes")
    (tmp_path / "pairs.parquet").rename(tmp_path / "test-00000-of-00001.parquet")
    train = load("huggingface", tmp_path, train=f".#{split}").train
    assert keys(train) == [f"test-00000-of-00001.parquet:{number}" for number in numbers]
    with pytest.raises(UserError, match="holds several splits"):
        load("huggingface", tmp_path, train=".")


def test_chosen_rows():
    values = pa.array([b"train", b"dev", None, b"train"], pa.large_binary())
    assert split_column(["image", "SPLIT"]) == "SPLIT"
    assert rows_of_splits(values, "dev", "a").tolist() == [False, True, False, False]
    assert rows_of_splits(pa.array(["train", "train"]), "", "a") is None
    assert rows_of_splits(pa.array([str(number) for number in range(500)]), "", "a") is None
    assert rows_of_splits(values, "*", "a") is None


def test_a_table_of_images_in_folders_of_splits(tmp_path):
    """The folder chooses the split; without such folders, format csv reads the same table."""
    rows = [(f"{split}/{number}.jpg", f"{split} {number}", split) for split in ("train", "test") for number in "12"]
    for name, *_ in rows:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(1))
    write_csv(tmp_path, rows, header=("file_name", "text", "split"), name="metadata.csv")
    for name, location in (("image_folder", ".#train"), ("csv", "metadata.csv#train")):
        train = load(name, tmp_path, train=location).train
        assert [train.captions(index) for index in range(len(train))] == [("train 1",), ("train 2",)]
    assert len(load("csv", tmp_path, train="metadata.csv#*").train) == 4


def test_objects_with_more_fields_than_the_first_one(tmp_path):
    objects = [{"image": f"{number}.jpg", "caption": "a fox"} for number in range(3)]
    write_jsonl(tmp_path, [objects[0], objects[1] | {"split": "train"}, objects[2] | {"split": "test"}])
    assert keys(load("jsonl", tmp_path, train="pairs.jsonl#train").train) == ["1.jpg"]
    with pytest.raises(UserError, match="holds several splits"):
        load("jsonl", tmp_path, train="pairs.jsonl")
