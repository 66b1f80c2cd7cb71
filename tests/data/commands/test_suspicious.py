"""Captions that are probably no captions are reported by `validate`, `stats`, training and evaluation."""

import re

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.text.tokenizer import clip_tokenizer
from tests.support.data_commands import config_of
from tests.support.loaders import make_loader
from tests.support.pair_files import load, write_csv, write_images

ESCAPED = r"'\x1b[31msentence 0\nsentence 0 again'"


@pytest.fixture
def folder(tmp_path):
    """Five-line captions with an escape sequence, as the only caption of each of 12 images."""
    names = write_images(tmp_path, 12)
    rows = [(name, f"\x1b[31msentence {i}\nsentence {i} again") for i, name in enumerate(names)]
    write_csv(tmp_path, rows)
    return tmp_path


def test_commands(run_data, folder, tmp_path):
    for command, flags in (("validate", (f"--out={tmp_path / 'bad.jsonl'}",)), ("stats", ())):
        text = run_data(command, config_of(folder), *flags)
        assert "\x1b" not in text and "suspicious captions:\n" in text
        assert f"  several lines: 12 of 12 pairs, such as {ESCAPED}; if each is a caption: config.data.caption" in text
        assert "  control characters: 12 of 12 pairs" in text
    text = run_data("stats", config_of(folder, caption_split="lines"))
    assert "captions: 24, 2.00 per image" in text and "several lines" not in text


def test_training_warns_once(folder, caplog):
    data = SOURCES["csv"](config_of(folder).data)
    with make_loader(data.train, clip_tokenizer(), batch_size=6, seed=0, image_size=8) as loader:
        next(loader)
        lines = caplog.text.count("captions of train, several lines")
        next(loader)
    assert lines == 1 == caplog.text.count("captions of train, several lines") and ESCAPED[1:18] in caplog.text
    assert "18 of" not in caplog.text  # the records of a small data set are drawn several times


def test_evaluation_warns(folder, caplog):
    split = load("csv", folder, test="pairs.csv").evals["test"]
    assert len(split.texts) == 12 and "captions of test, several lines: 12 of 12 pairs" in caplog.text
    caplog.clear()
    split = load("csv", folder, test="pairs.csv", caption_split="lines").evals["test"]
    assert len(split.texts) == 24 and split.text_ids.tolist() == np.repeat(np.arange(12), 2).tolist()
    assert "several lines" not in caplog.text


def test_class_names_are_no_suspicious_captions(folder, caplog, run_data, tmp_path):
    for kind in ("fox", "B52"):
        (folder / "classes" / kind).mkdir(parents=True)
        for number in range(8):
            (folder / "classes" / kind / f"{number}.jpg").write_bytes((folder / "pics" / "000.jpg").read_bytes())
    config = config_of(folder, name="image_folder", train=str(folder / "classes"), templates=("{}",))
    assert "suspicious" not in run_data("validate", config, f"--out={tmp_path / 'bad.jsonl'}")
    assert "suspicious" not in run_data("stats", config)
    train = SOURCES["image_folder"](config.data).train
    with make_loader(train, clip_tokenizer(), batch_size=6, seed=0, image_size=8) as loader:
        next(loader)
    assert "captions of" not in caplog.text


@pytest.mark.parametrize("command", ["preview", "validate", "stats", "convert", "captions"])
def test_no_command_prints_control_characters_of_the_data(run_data, tmp_path, command, monkeypatch):
    """Escape sequences and line breaks in keys, captions, paths and messages about them."""
    monkeypatch.chdir(tmp_path)
    names = [f"\x1b[2J{i}\u202e.png" for i in range(4)]
    for name in names[:2]:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    rows = [
        (name, text)
        for name, text in zip(names, ("\x1b]0;a dog\x07", "two\nlines", "\x9b31m", "\x1b\x07"), strict=True)
    ]
    write_csv(tmp_path, [*rows, ("\x1b[2J/none.png", "\x1b[1mcat")])
    text = run_data(command, config_of(tmp_path))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), text
    assert command in ("stats", "captions") or r"\x1b[2J" in text
