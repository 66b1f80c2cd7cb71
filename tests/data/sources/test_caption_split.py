"""Several captions in one text: one rule for all formats."""

import json

import numpy as np
import pyarrow as pa
import pytest

from rankclip_jax.data.sources.caption_split import parse_list
from rankclip_jax.errors import UserError
from tests.support.pair_files import load, write_csv, write_images, write_jsonl, write_parquet
from tests.support.tar_files import write_tar

FIVE = [f'sentence {n}, "said" so' for n in range(5)]
PAIR = ["a fox", "it's red"]
LINES = "\r\n".join(FIVE) + "\n\n"


def write(folder, kind, text):
    """Two images whose captions are one text; return the location."""
    names = write_images(folder, 2)
    if kind == "csv":
        return write_csv(folder, [(name, text) for name in names])
    if kind == "jsonl":
        return write_jsonl(folder, [{"image": name, "caption": text} for name in names])
    if kind == "image_folder":
        for name in names:
            (folder / name).with_suffix(".txt").write_bytes(text.encode())
        return folder / "pics"
    if kind == "parquet":
        return write_parquet(folder / "a.parquet", {"image": pa.array(names), "caption": pa.array([text] * 2)})
    members = [(f"{i}.{end}", data) for i in range(2) for end, data in (("jpg", b"x"), ("txt", text.encode()))]
    return write_tar(folder / "a.tar", members)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "image_folder", "parquet", "webdataset"])
@pytest.mark.parametrize(("split", "text"), [("lines", LINES), ("list", json.dumps(FIVE)), ("list", repr(FIVE))])
def test_one_rule_for_all_formats(tmp_path, kind, split, text):
    location = str(write(tmp_path, kind, text))
    whole = load(kind, "", train=location)
    assert whole.train.captions(1) == (text.strip(),)
    parts = load(kind, "", train=location, caption_split=split)
    assert parts.train.captions(1) == tuple(FIVE) and parts.digest != whole.digest


def test_second_captions_follow_the_rule(tmp_path):
    file = write_jsonl(tmp_path, [{"image": "a", "caption": "one\ntwo", "other": ["three\nfour", "five"]}])
    found = load("jsonl", "", train=str(file), caption_split="lines", second_caption_key="other").train
    assert found.captions(0) == ("one", "two") and found.second_captions(0) == ("three", "four", "five")


@pytest.mark.parametrize("text", [json.dumps(PAIR), repr(PAIR), str(np.array(PAIR)), json.dumps(PAIR, indent=1)])
def test_lists_of_json_python_and_numpy(text):
    assert parse_list(text) == PAIR


@pytest.mark.parametrize("text", ["[1, 2]", "[a fox]", "[" * 10_000, '[["a"]]', "['a'", "[__import__('os')]"])
def test_invalid_lists(text):
    with pytest.raises(ValueError, match="is not a list of texts"):
        parse_list(text)


def test_a_text_is_one_caption():
    assert parse_list("a fox [red]") == ["a fox [red]"]


def test_an_unknown_rule(tmp_path):
    file = write_csv(tmp_path, [("a.jpg", "a fox")])
    with pytest.raises(UserError, match=r"value of config.data.caption_split 'line'. Did you mean 'lines'"):
        load("csv", "", train=str(file), caption_split="line")
