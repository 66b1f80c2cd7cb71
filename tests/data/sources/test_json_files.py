"""JSON files of pairs: one object per line, objects of several lines, arrays."""

import json

import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import jsonl
from rankclip_jax.errors import UserError

ITEMS = [{"image": f"{i}.jpg", "caption": [f"caption {i} a", f"é {i} b"]} for i in range(40)]
LINES = "\n".join(map(json.dumps, ITEMS))


def read(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    pairs = jsonl.open_pairs([str(path)], PairOptions())
    return [{"image": pairs.key(i), "caption": [*pairs.captions(i)]} for i in range(len(pairs))]


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(ITEMS),
        json.dumps(ITEMS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ITEMS)) + "\n]\n",
        "\n".join(json.dumps(item, indent=1) for item in ITEMS),
        json.dumps(ITEMS[:3], indent=1) + "\n" + json.dumps(ITEMS[3:]),
        LINES,
        b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + json.dumps(ITEMS, indent=2).encode(),
        LINES.encode("utf-16"),
        json.dumps(ITEMS, ensure_ascii=False).encode("utf-16-le"),
        json.dumps({"info": {"year": 2026}, "data": ITEMS}),
        json.dumps({"version": "1", "data": ITEMS}, indent=1),
    ],
    ids=range(12),
)
def test_every_layout(tmp_path, data):
    assert read(tmp_path / "a.json", data) == ITEMS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(ITEMS, indent=1)[:-40], r"a.json is not valid JSON \(.*line \d+ column .*\): is it complete"),
        (json.dumps(ITEMS)[:-1], "a.json is not valid JSON"),
        ('["a.jpg", "a fox"]\n["b.jpg", "a cat"]', "First: line 1: not a JSON object"),
        ('["a.jpg"]', "First: item 1: not a JSON object"),
        ("[" * 100_000, r"a.json is not valid JSON \(it is nested too deeply\)"),
        ('{"image": "a.jpg", "caption": ' + "[" * 100_000 + "}", "line 1: it is nested too deeply"),
        ('{"image": ' + "1" * 5000 + "}", "First: line 1: Exceeds the limit"),
        ("[]", "is empty: it must hold a JSON object per line, or one array"),
    ],
    ids=range(8),
)
def test_damaged_files(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "a.json", data)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_one_object_with_a_list_is_one_pair(tmp_path):
    item = {"image": "a.jpg", "caption": ["a fox"]}
    assert read(tmp_path / "a.json", json.dumps(item | {"boxes": [{"x": 1}]})) == [item]


def test_many_columns_are_not_all_listed(tmp_path):
    with pytest.raises(UserError, match=r"Columns found: '0.jpg', .*'29.jpg' and 970 more") as caught:
        read(tmp_path / "a.json", json.dumps({f"{i}.jpg": "a fox" for i in range(1000)}))
    assert len(str(caught.value)) < 700


def test_lines_after_a_broken_first_line_are_used(tmp_path, caplog):
    items = [{"image": f"{i}.jpg", "caption": [f"c{i}"]} for i in range(200)]
    assert read(tmp_path / "a.json", "{broken\n" + "\n".join(map(json.dumps, items))) == items
    assert "1 of 201 rows left out: line 1" in caplog.text
