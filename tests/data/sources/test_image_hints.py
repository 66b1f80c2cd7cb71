"""Folders of classes that hold captions elsewhere: a warning names the file."""

import json
import logging

import pytest

from tests.support.pair_files import jpeg, load

IMAGES = ("images/red_fox/a1.jpg", "images/red_fox/a2.jpg", "images/cat/a3.png")
COCO = {"images": [{"id": 1, "file_name": "a1.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}
HINT = "names images, but captions are made of the names of folders"


def classes(folder, **files):
    for number, name in enumerate(IMAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return load("image_folder", folder, train=".").train.pairs.class_names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "image,caption\nimages/red_fox/a1.jpg,a fox\n"),
        ("captions.txt", "a3.png|a cat\n"),
        ("annotations/captions.json", json.dumps(COCO)),
        ("captions/cat/a3.txt", "a cat"),
        ("images/metadata.tsv", "file_name\ttext\ncat/a3.png\ta cat\n"),
    ],
)
def test_captions_that_are_not_read(tmp_path, caplog, name, text):
    with caplog.at_level(logging.WARNING):
        assert classes(tmp_path, **{name: text}) == ("cat", "red fox")
    assert f"{name} {HINT}" in caplog.text


def test_other_files_are_no_captions(tmp_path, caplog):
    files = {"README.txt": "photos of cats", "labels/classes.txt": "red_fox\ncat\n", "empty.csv": "", "b.json": "[]"}
    with caplog.at_level(logging.WARNING):
        assert classes(tmp_path, **files) == ("cat", "red fox")
    assert HINT not in caplog.text
