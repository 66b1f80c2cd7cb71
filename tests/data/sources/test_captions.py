"""Captions in a value of a file: encodings, lists, and captions without a visible character."""

import json

import pytest

from rankclip_jax.data.second_captions import CaptionFile
from rankclip_jax.data.sources.captions import captions_of

BLANK = [
    "",
    " \n",
    "\0\0",
    "\u200b\ufeff",
    "\x1b\x07",
    "\u3164\u2800",
    "\ufe0f\u0301",
    "\ue000",
    "\ufffd\ufffd",
    "NaN",
    "None",
    "<NA>",
    "N/A",
    "#N/A",
    "undefined",
]
VISIBLE = ["a", ".", "狐", "😀", "\U0001fae9", "é", "e\u0301", "نمی\u200cخواهم", "none of them", "0"]


@pytest.mark.parametrize("text", BLANK)
def test_a_caption_without_a_visible_character_is_missing(text):
    for value in (text, text.encode(), [text], [text, None, 3]):
        with pytest.raises(ValueError, match="missing or empty"):
            captions_of(value)
    assert captions_of(["a fox", text]) == ("a fox",)


@pytest.mark.parametrize("text", VISIBLE)
def test_other_captions_are_kept(text):
    for value in (text, text.encode(), f"\ufeff {text}\n", text.encode("utf-16"), f"{text}\n".encode("utf-8-sig")):
        assert captions_of(value) == (text,)


def test_the_rules_hold_for_a_file_of_second_captions(tmp_path):
    lines = [("a", "a fox"), ("a", "\u200b"), ("b", "\0")]
    text = "\r\n".join(json.dumps({"key": key, "second_caption": caption}) for key, caption in lines)
    (tmp_path / "second.jsonl").write_bytes(text.encode("utf-16"))
    captions = CaptionFile(str(tmp_path / "second.jsonl"))
    assert captions.captions(["a"]) == ("a fox",)
    with pytest.raises(ValueError, match="missing or empty"):
        captions.captions(["b"])
