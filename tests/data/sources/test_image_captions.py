"""Folders of images with captions beside them: caption files, and tables as `imagefolder` of `datasets` has them."""

import json
import logging
import os

import pytest

from rankclip_jax.errors import UserError
from tests.support import pair_files
from tests.support.pair_files import jpeg, keys, write_csv, write_jsonl, write_parquet


def load(folder, train=".", **options):
    return pair_files.load("image_folder", folder, train=train, **options).train


def fill(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))


def captions_of(train):
    return {train.key(i): train.captions(i) for i in range(len(train))}


def test_caption_files_at_any_depth(tmp_path):
    """Folders are no classes if there are captions: kohya's "30_cat", img2dataset's output as files."""
    fill(tmp_path, "0.jpg", "30_cat/1.jfif", "30_cat/deep/2.JPG", "30_cat/3.png", "30_cat/4.webp")
    (tmp_path / "0.txt").write_text("on top")
    (tmp_path / "30_cat/1.TXT").write_text("a cat")
    (tmp_path / "30_cat/1.json").write_text('{"caption": "not this one"}')
    (tmp_path / "30_cat/deep/2.caption").write_text("a second cat")
    (tmp_path / "30_cat/3.json").write_text('{"url": "x", "caption": "a third cat", "width": 3}')
    (tmp_path / "30_cat/4.webp.txt").write_text("a fourth cat")
    train = load(tmp_path)
    assert captions_of(train) == {
        "0.jpg": ("on top",),
        "30_cat/1.jfif": ("a cat",),
        "30_cat/3.png": ("a third cat",),
        "30_cat/4.webp": ("a fourth cat",),
        "30_cat/deep/2.JPG": ("a second cat",),
    }
    assert train.pairs.class_names == () and train.pairs.image_bytes(2) == jpeg(3)


def test_the_key_of_captions(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    for folder in "ab":
        (tmp_path / folder / "1.txt").write_text(f"text {folder}")
        (tmp_path / folder / "1.json").write_text(json.dumps({"meta": {"long": f"long {folder}"}}))
    train = load(tmp_path, caption_key="json.meta.long", second_caption_key="txt")
    assert captions_of(train) == {"a/1.jpg": ("long a",), "b/1.jpg": ("long b",)}
    assert train.second_captions(1) == ("text b",) and train.pairs.has_second_captions


def test_json_files_without_captions_do_not_count(tmp_path):
    """As labels of boxes beside the images of classes."""
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat/1.json").write_text('{"shapes": []}')
    assert load(tmp_path).pairs.class_names == ("cat", "dog")


def test_an_image_without_a_caption_is_a_bad_record(tmp_path, caplog):
    fill(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "a/1.txt").write_text("one")
    with caplog.at_level(logging.WARNING):
        train = load(tmp_path)
    assert "1 of 2 images have no caption file" in caplog.text and train.captions(0) == ("one",)
    with pytest.raises(FileNotFoundError, match="the image has no caption file"):
        train.captions(1)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tables_of_captions_and_splits(tmp_path, kind):
    for split, count in (("train", 4), ("test", 2)):
        names = [f"{number}.png" for number in range(count)]
        fill(tmp_path / split, *names)
        rows = [(name, f"{split} {name}") for name in names]
        if kind == "csv":
            write_csv(tmp_path / split, rows, ("file_name", "text"), name="metadata.csv")
        elif kind == "jsonl":
            write_jsonl(tmp_path / split, [{"file_name": n, "text": text} for n, text in rows], "metadata.jsonl")
        else:
            columns = {"file_name": names, "text": [text for _, text in rows]}
            write_parquet(tmp_path / split / "metadata.parquet", columns)
    with pytest.raises(UserError, match=r"holds several splits: name one, as in .*#test. Known: test, train."):
        load(tmp_path)
    for location in ("#train", "train"):
        train = load(tmp_path, f"{tmp_path}{location}" if location[0] == "#" else location)
        assert captions_of(train) == {f"{number}.png": (f"train {number}.png",) for number in range(4)}
    hub = pair_files.load("huggingface", tmp_path, train=".#test").train
    assert len(hub) == 2 and hub.captions(1) == ("test 1.png",)


def test_tables_in_several_folders_and_above_splits(tmp_path, caplog):
    fill(tmp_path / "a", "x/0.jpg", "y/0.jpg", "y/1.jpg")
    for folder in "xy":
        write_jsonl(tmp_path / "a" / folder, [{"file_name": "0.jpg", "text": folder}], "metadata.jsonl")
    with caplog.at_level(logging.WARNING):
        assert captions_of(load(tmp_path, "a")) == {"x/0.jpg": ("x",), "y/0.jpg": ("y",)}
    assert "1 of 3 images are in no table and left out" in caplog.text
    fill(tmp_path / "b", "train/0.jpg", "val/0.jpg")
    rows = [{"file_name": f"{split}/0.jpg", "text": split} for split in ("train", "val")]
    write_jsonl(tmp_path / "b", rows, "metadata.jsonl")
    assert captions_of(load(tmp_path, "b#val")) == {"val/0.jpg": ("val",)}


def test_splits_of_classes(tmp_path):
    fill(tmp_path, "train2017/cat/1.jpg", "train2017/dog/1.jpg", "val2017/cat/1.jpg", "val2017/dog/1.jpg")
    assert keys(load(tmp_path, ".#val2017")) == ["cat/1.jpg", "dog/1.jpg"]
    with pytest.raises(UserError, match="holds several splits"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"has no folder 'test' of a split. Known: train2017, val2017"):
        load(tmp_path, ".#test")


def test_one_folder_is_no_class(tmp_path):
    fill(tmp_path, "images/1.jpg", "images/2.jpg")
    with pytest.raises(UserError, match=r"images/1.jpg without captions or classes"):
        load(tmp_path)


def test_links_are_visited_once(tmp_path):
    fill(tmp_path / "set", "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "set/cat/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/again").symlink_to(tmp_path / "set/dog")
    fill(tmp_path / "elsewhere", "1.jpg")
    (tmp_path / "set/fox").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert keys(load(tmp_path, "set")) == ["cat/1.jpg", "dog/1.jpg", "fox/1.jpg"]


def test_equal_names_in_several_folders_have_their_own_keys(tmp_path):
    fill(tmp_path, "a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg")
    assert sorted(keys(load(tmp_path, "{a,b}"))) == ["a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg"]


def test_pointers_and_pipes_are_refused_as_images(tmp_path):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    (tmp_path / "cat/1.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    train = load(tmp_path)
    with pytest.raises(OSError, match="pointer of git-lfs instead of data: run `git lfs pull`"):
        train.pairs.image_bytes(0)
    (tmp_path / "dog/1.jpg").unlink()
    os.mkfifo(tmp_path / "dog/1.jpg")
    with pytest.raises(OSError, match="pipe or a device"):
        train.pairs.image_bytes(1)


@pytest.mark.parametrize("wrapping", ["", "data/", "photos/data/"])
def test_splits_at_any_depth_and_beside_other_folders(tmp_path, wrapping):
    """A folder without images, such as annotations, and one with another name change nothing."""
    for split in ("train", "test", "unlabeled"):
        fill(tmp_path, f"{wrapping}{split}/0.jpg", f"{wrapping}{split}/x/1.jpg")
        write_jsonl(tmp_path / wrapping / split, [{"file_name": "x/1.jpg", "text": split}], "metadata.jsonl")
    (tmp_path / wrapping / "annotations").mkdir()
    with pytest.raises(UserError, match=r"name one, as in .*#test. Known: test, train, unlabeled."):
        load(tmp_path)
    for split in ("train", "unlabeled"):
        assert captions_of(load(tmp_path, f".#{split}")) == {"x/1.jpg": (split,)}


def test_classes_in_a_folder_of_their_own(tmp_path):
    """And class names in any of the folders above."""
    fill(tmp_path, "train/images/n9/1.jpg", "train/images/n8/1.jpg", "test/images/n9/1.jpg")
    (tmp_path / "class_names.tsv").write_text("n9\tfox\n")
    (tmp_path / "train/images/class_names.tsv").write_text("n8\tcat\n")
    train = load(tmp_path, ".#train")
    assert captions_of(train) == {"n8/1.jpg": ("a photo of a cat.",), "n9/1.jpg": ("a photo of a fox.",)}


def test_splits_inside_classes_are_reported(tmp_path, caplog):
    fill(tmp_path, "bottle/test/1.jpg", "bottle/train/1.jpg", "cable/train/1.jpg")
    assert load(tmp_path).pairs.class_names == ("bottle", "cable")
    assert "classes hold folders of several splits (test, train), which are merged" in caplog.text


def test_a_vehicle_is_no_split(tmp_path):
    fill(tmp_path, "plane/1.jpg", "train/1.jpg")
    assert load(tmp_path).pairs.class_names == ("plane", "train")
