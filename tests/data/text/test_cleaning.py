"""CLIP's cleaning of texts, compared with its definition, and its time."""

import html
import random
import time

import ftfy
import pytest

from rankclip_jax.data.text.tokenizer import clean, clip_tokenizer

PARTS = ["&", "amp;", "AMP;", "#38;", "#x26;", "#038;", "lt;", "<", "\n", "a", "quot;", "&amp;lt;", "#60;", "é", " "]


def defined(text):
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def test_escapes_are_removed_as_defined():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 14)))
        assert clean(text) == defined(text), text


@pytest.mark.parametrize(
    "text",
    [
        "&" + "amp;" * 8000, "&" + "#38;" * 8000, "&" + "amp;#x26;" * 4000, "&amp" * 8000, "<&" + "amp;" * 8000,
        "&" * 32_000, "&#" * 16_000, "a" * 200_000, "Ã¢â‚¬â„¢" * 5000, "&AMP" + ";amp" * 8000, "a b " * 1_000_000,
    ],
    ids=range(11),
)  # fmt: skip
def test_time_of_long_texts(text):
    tokenizer = clip_tokenizer()
    began = time.perf_counter()
    assert tokenizer(text).shape == (1, 77)
    assert time.perf_counter() - began < 1
