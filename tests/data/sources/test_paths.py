"""Paths of images in tables, as several systems and programs write them."""

import os
import unicodedata

import pytest

from rankclip_jax.data.sources.paths import read_image
from tests.support.pair_files import load

NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("1.jpg", "./1.jpg"),
        ("1.jpg", " 1.jpg "),
        ("a b.jpg", "a%20b.jpg"),
        ("a b.jpg", "file://{folder}/a%20b.jpg"),
        (NFD, NFC),
        (NFC, NFD),
        (f"in/{NFD}", f"in\\{NFC}"),
        ("1.jpg", "~/1.jpg"),
        ("100%25.jpg", "100%25.jpg"),
    ],
)
def test_spellings_of_paths(tmp_path, monkeypatch, file, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in").mkdir()
    (tmp_path / file).write_bytes(b"image")
    (tmp_path / "100%.jpg").write_bytes(b"another")
    assert read_image(str(tmp_path), path.format(folder=tmp_path)) == b"image"
    os.remove(tmp_path / file)
    if file != "100%25.jpg":
        with pytest.raises(FileNotFoundError):
            read_image(str(tmp_path), path.format(folder=tmp_path))


def test_dots_before_paths(tmp_path):
    """An image in two rows is one image, also with ``./`` before its path."""
    (tmp_path / "pairs.csv").write_text("filepath,title\n./1.jpg,a fox\n1.jpg,a red fox\n.//./2.jpg,cat\n.3.jpg,x\n")
    train = load("csv", tmp_path, train="pairs.csv").train
    assert [train.key(index) for index in range(3)] == ["1.jpg", "2.jpg", ".3.jpg"]
    assert train.captions(0) == ("a fox", "a red fox")
