"""Captions that are probably no captions: the kinds, and who reports them."""

import random
import time

import pytest

from rankclip_jax.data.caption_check import ONE_CAPTION, CaptionCheck, check, kinds_of, warnings_of

LINES, ROWS = "several lines", "several lines with separators"
LISTS, CODES, CONTROLS, HTML = "lists", "only codes or numbers", "control characters", "HTML"


@pytest.mark.parametrize(
    ("caption", "kinds"),
    [
        ("one sentence.\nanother", [LINES]),
        ("one\r\ntwo\r\nthree", [LINES]),
        ("a dog, brown\na cat, black", [LINES]),
        ("hello\n51.jpg\tplain\n52.jpg\tother", [ROWS]),
        ("hello\n51.jpg,plain\n52.jpg,other", [ROWS]),
        ("hello\n51|plain\n52|other", [ROWS]),
        ("['a dog', 'a cat']", [LISTS]),
        ('["a dog"]', [LISTS]),
        ('{"caption": "a dog"}', [LISTS]),
        ("('a dog', 'a cat')", [LISTS]),
        ("b'a red fox'", [LISTS]),
        ("array(['a dog', 'a cat'], dtype=object)", [LISTS]),
        ("array of lights (blue)", []),
        ("b 'n' b", []),
        ("a fox_x000D_", [CONTROLS]),
        (r"a fox\n\na red fox", [CONTROLS]),
        (r"un caf\u00e9", [CONTROLS]),
        (r"a folder C:\new york", []),
        ("...", [CODES]),
        ("- / -", [CODES]),
        ("n01440764", [CODES]),
        ("00123", [CODES]),
        ("2014-05-06 12:30", [CODES]),
        ("IMG_1234.JPG", [CODES]),
        ("holiday.png", [CODES]),
        ("https://example.com/a", [CODES]),
        ("d41d8cd98f00b204e9800998ecf8427e", [CODES]),
        ("a dog\0\0\0", [CONTROLS]),
        ("\x1b[31ma dog", [CONTROLS]),
        ("caf\ufffd au lait", [CONTROLS]),
        ("<p>a dog</p>", [HTML]),
        ("a dog<br/>on grass", [HTML]),
        ('<a href="x">a dog</a>', [HTML]),
        ("dogs &amp; cats", [HTML]),
        ("[<b>a</b>]", [LISTS, HTML]),
    ],
)
def test_kinds(caption, kinds):
    assert kinds_of(caption) == kinds and [line.split(":")[0] for line in check([(caption,)]).lines()] == kinds


@pytest.mark.parametrize(
    "caption",
    [
        "a dog", "dog", "A dog (brown), running; 3 cats | 1999", "<PERSON> in the park", "x < 3 & y > 2", "AT&T office",
        "2个苹果", "😀", "❤️", "[sic] a dog", "(photo by me)", "a dog\tand a cat", "نمی\u200cخواهم", "C", "rock'n'roll",
    ],
)  # fmt: skip
def test_captions_that_are_captions(caption):
    assert check([(caption,)]).lines() == []


def test_one_caption_for_many_images():
    captions = [(f"a dog of number {i}", "a dog") if i % 10 == 0 else (f"cat {i} here",) for i in range(30_000)]
    (line,) = check(captions).lines()
    name, count = line.split(" of ")[0].split(": ")
    assert name == ONE_CAPTION and 2990 <= int(count.replace(",", "")) <= 3000 and "'a dog'" in line
    assert check([("same",)] * 5).lines() == [] and len(check([("same",)] * 6).lines()) == 1
    assert check([("a dog", "a dog")] * 1 + [(f"cat of {i}",) for i in range(30)]).lines() == []


def test_parts_are_merged():
    rng = random.Random(0)
    captions = [(rng.choice(["a dog", f"cat number {i} is here", "n01440764", "x\ny"]),) for i in range(500)]
    whole, parts = check(captions), CaptionCheck()
    for start in range(0, 500, 64):
        parts.merge(check(captions[start : start + 64]))
    assert parts.lines() == whole.lines() and len(whole.lines()) == 3  # two kinds, and the most frequent caption


def test_warnings_are_short_escaped_and_begin_at_one_percent():
    captions = [(f"a fine caption of {i}",) for i in range(297)]
    assert warnings_of("train", [*captions, *[("\x1b[2J" + "x y " * 1000,)] * 2]) == []
    lines = warnings_of("train", [*captions, *[("\x1b[2J" + f"x y {i} " * 1000,) for i in range(4)]])
    assert len(lines) == 1 and len(lines[0]) < 250
    assert lines[0].startswith(r"captions of train, control characters: 4 of 301 pairs, such as '\x1b[2Jx y 0")


@pytest.mark.parametrize("part", ["<a ", "[", "]", "&a", "a\n", "1", "('", " "])
@pytest.mark.parametrize("around", ["{}", "[{}", "{}]", "\n{}|", "<{}"])
def test_time_is_linear(part, around):
    began = time.perf_counter()
    kinds_of(around.replace("{}", part * 30_000))
    assert time.perf_counter() - began < 0.5
