"""Shards of one table whose columns have different types, as several writers leave them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankclip_jax.errors import UserError
from tests.support.pair_files import jpeg, keys, load, write_parquet

TEXTS = ["a fox", "ein Füchslein"]
KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
KINDS += [pa.dictionary(pa.int32(), pa.large_string())]
LISTS = [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 1)]


def write(folder, number, **columns):
    return write_parquet(folder / f"{number}.parquet", columns, group=1)


@pytest.mark.parametrize("has_paths", [True, False])
def test_types_of_texts(tmp_path, has_paths):
    """The shards are read as one table: paths and captions in every type, also lists and nulls."""
    kinds = [*KINDS, *LISTS]
    for number, kind in enumerate(kinds):
        is_list = kind in LISTS
        texts = pa.array([[text] for text in TEXTS] if is_list else TEXTS, kind)
        paths = pa.array([f"{number}{letter}.jpg" for letter in "ab"], KINDS[number % len(KINDS)])
        images = pa.array([jpeg(0)] * 2, [pa.binary(), pa.large_binary(), pa.binary_view()][number % 3])
        write(tmp_path, number, image=paths if has_paths else images, caption=texts)
    write(tmp_path, 9, image=paths if has_paths else images, caption=pa.nulls(2))
    train = load("parquet", tmp_path, train="*.parquet").train
    found = [train.captions(i) for i in range(2 * len(kinds))]
    assert found == [(text,) for text in TEXTS] * len(kinds)
    if has_paths:
        assert keys(train) == [f"{number}{letter}.jpg" for number in range(len(kinds)) for letter in "ab"]
    else:
        with pytest.raises(ValueError, match="missing or empty"):
            train.captions(2 * len(kinds))


def test_columns_in_another_order_and_labels_of_other_widths(tmp_path):
    features = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    for number, kind in enumerate((pa.int64(), pa.int8(), pa.uint16())):
        columns = {"image": [jpeg(0), jpeg(1)], "label": pa.array([0, 1], kind)}
        columns = dict(reversed(columns.items())) if number == 1 else columns
        write_parquet(tmp_path / f"{number}.parquet", columns, metadata={"huggingface": features})
    train = load("parquet", tmp_path, train="*.parquet").train
    assert train.labels("class").tolist() == [0, 1] * 3 and train.captions(3) == ("a photo of a dog.",)


def test_paths_in_one_shard_and_bytes_in_another(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    write(tmp_path, 0, image=["a.jpg"], caption=["one"])
    write(tmp_path, 1, image=[jpeg(2)], caption=["two"])
    pairs = load("parquet", tmp_path, train="*.parquet").train.pairs
    assert [pairs.image_bytes(i) for i in range(2)] == [jpeg(1), jpeg(2)]


def test_a_shard_with_another_kind_of_column(tmp_path):
    write(tmp_path, 0, image=["a.jpg"], caption=["one"])
    write(tmp_path, 1, image=["b.jpg"], caption=[3])
    with pytest.raises(UserError, match=r"1.parquet: caption column 'caption' holds int64"):
        load("parquet", tmp_path, train="*.parquet")


def test_only_the_columns_in_use_must_be_the_same(tmp_path):
    write(tmp_path, 0, image=["a.jpg"], caption=["one"], clip_score=[0.3])
    write(tmp_path, 1, caption=["two"], image=["b.jpg"])
    assert keys(load("parquet", tmp_path, train="*.parquet").train) == ["a.jpg", "b.jpg"]
    write(tmp_path, 2, image=["c.jpg"], text=["three"])
    with pytest.raises(UserError, match=r"2.parquet has columns \['image', 'text'\], .*0.parquet has .*two locations"):
        load("parquet", tmp_path, train="*.parquet")


def test_two_columns_of_the_same_name(tmp_path):
    arrays = [pa.array(["a.jpg"]), pa.array(["one"]), pa.array(["two"])]
    pq.write_table(pa.Table.from_arrays(arrays, ["image", "caption", "caption"]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("image,caption,caption\na.jpg,one,two\n")
    for kind in ("parquet", "csv"):
        with pytest.raises(UserError, match="has several columns 'caption': rename all but one"):
            load(kind, tmp_path, train=f"a.{kind}")


def test_class_names_that_differ_between_shards(tmp_path):
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        features = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
        columns = {"image": [jpeg(0), jpeg(1)], "label": [0, 1]}
        write_parquet(tmp_path / f"{number}.parquet", columns, metadata={"huggingface": features})
    with pytest.raises(UserError, match=r"0.parquet and .*1.parquet have different class names in column 'label'"):
        load("parquet", tmp_path, train="*.parquet")


@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_several_columns_of_captions_are_reported(tmp_path, caplog, name):
    row = {"filepath": "1.jpg", "Title": "Home", "caption": "a fox"}
    (tmp_path / "p.csv").write_text(",".join(row) + "\n" + ",".join(row.values()))
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    write_parquet(tmp_path / "p.parquet", {key: [value] for key, value in row.items()})
    assert load(name, tmp_path, train=f"p.{name}").train.captions(0) == ("Home",)
    text = f"p.{name}: 'Title' is used as the column of captions, not 'caption': if this is wrong, set config.data.cap"
    assert text in caplog.text
    caplog.clear()
    assert load(name, tmp_path, train=f"p.{name}", caption_key="caption").train.captions(0) == ("a fox",)
    assert not caplog.text
