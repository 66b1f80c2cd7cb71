"""Tables of paths and captions, compared with Python's csv and json modules, and invalid tables."""

import csv
import json
import tracemalloc

import pyarrow as pa
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import delimited, jsonl
from rankclip_jax.data.sources.delimited import separator_of
from rankclip_jax.errors import UserError
from tests.support.pair_files import caption, jpeg, write_csv, write_images, write_jsonl

ROWS = [(f"pics/{i:03d}.jpg", caption(i)) for i in range(24)]


def open_csv(*files, **options):
    return delimited.open_pairs([str(file) for file in files], PairOptions(**options))


def open_jsonl(*files, **options):
    return jsonl.open_pairs([str(file) for file in files], PairOptions(**options))


def content(pairs):
    return [(pairs.key(i), pairs.captions(i)) for i in range(len(pairs))]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", [("filepath", "title"), ("\ufeffIMAGE", " Caption "), ("title", "filepath")])
def test_tables_equal_those_of_the_csv_module(tmp_path, separator, header):
    """For all separators and column orders; captions contain separators, quotes and newlines."""
    rows = [(name, f"{text}\nline two") for name, text in ROWS]
    if header[0] == "title":
        rows = [row[::-1] for row in rows]
    file = write_csv(tmp_path, rows, header, separator)
    with file.open(newline="", encoding="utf-8") as opened:
        expected_rows = list(csv.reader(opened, delimiter=separator))[1:]
    expected = [row if header[0] != "title" else row[::-1] for row in expected_rows]
    assert content(open_csv(file)) == [(name, (text,)) for name, text in expected]


def test_the_separator_is_detected_in_the_header():
    assert separator_of("image_name| comment_number| comment") == "|"
    assert separator_of('"a,b"\tcaption') == "\t"
    assert separator_of("filepath,title") == ","


def test_images_are_beside_the_table_or_in_image_root(tmp_path):
    write_images(tmp_path)
    pairs = open_csv(write_csv(tmp_path, ROWS))
    assert [pairs.image_bytes(i) for i in (0, 7, 23)] == [jpeg(i) for i in (0, 7, 23)]
    (tmp_path / "elsewhere").mkdir()
    moved = write_csv(tmp_path / "elsewhere", [*ROWS[1:], (str(tmp_path / ROWS[0][0]), "absolute")])
    with pytest.raises(FileNotFoundError):
        open_csv(moved).image_bytes(0)
    pairs = open_csv(moved, image_root=str(tmp_path))
    assert pairs.image_bytes(0) == jpeg(1) and pairs.image_bytes(23) == jpeg(0)


def test_rows_of_one_image_are_its_captions(tmp_path):
    rows = [("b.jpg", "one"), ("a.jpg", "two"), ("b.jpg", "three"), ("b.jpg", "")]
    expected = [("b.jpg", ("one", "three")), ("a.jpg", ("two",))]
    assert content(open_csv(write_csv(tmp_path, rows))) == expected
    items = [{"file_name": "b.jpg", "captions": ["one", None]}, {"file_name": "a.jpg", "captions": "two"}]
    items += [{"file_name": "b.jpg", "captions": ["three"]}]
    assert content(open_jsonl(write_jsonl(tmp_path, items))) == expected


def test_several_tables_are_one(tmp_path):
    first, second = write_csv(tmp_path, ROWS[:10], name="1.csv"), write_csv(tmp_path, ROWS[10:], name="2.csv")
    assert content(open_csv(first, second)) == [(name, (text,)) for name, text in ROWS]
    (tmp_path / "sub").mkdir()
    third = write_csv(tmp_path / "sub", ROWS, name="3.csv")
    with pytest.raises(UserError, match=r"the tables are in 2 folders, .* set config.data.image_root"):
        open_csv(first, third)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_second_captions_on_demand(tmp_path, kind):
    rows = [("a.jpg", "one", "made one"), ("b.jpg", "two", "")]
    header = ("image", "caption", "blip")
    if kind == "csv":
        pairs, file = open_csv, write_csv(tmp_path, rows, header)
    else:
        pairs, file = open_jsonl, write_jsonl(tmp_path, [dict(zip(header, row, strict=True)) for row in rows])
    assert not pairs(file).has_second_captions
    found = pairs(file, second_caption_key="blip")
    assert found.captions(0) == ("one",) and found.second_captions(0) == ("made one",)
    with pytest.raises(ValueError, match="missing or empty"):
        found.second_captions(1)
    with pytest.raises(UserError, match=r"no column 'blop'. Did you mean 'blip'\? Columns found: 'image', 'caption'"):
        pairs(file, second_caption_key="blop")


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize("text", ["", "  ", "NaN", "nan"])
def test_a_missing_caption_is_a_bad_record(tmp_path, text):
    for pairs in (
        open_csv(write_csv(tmp_path, [("a.jpg", "fine"), ("b.jpg", text)])),
        open_jsonl(write_jsonl(tmp_path, [{"image": "a.jpg", "text": "fine"}, {"image": "b.jpg", "text": text}])),
    ):
        assert len(pairs) == 2 and pairs.captions(0) == ("fine",)
        with pytest.raises(ValueError, match="missing or empty"):
            pairs.captions(1)


@pytest.mark.parametrize("value", [None, float("nan"), 3, {}, []])
def test_a_caption_of_another_type_is_a_bad_record(tmp_path, value):
    pairs = open_jsonl(write_jsonl(tmp_path, [{"image": "a.jpg", "text": "fine"}, {"image": "b.jpg", "text": value}]))
    with pytest.raises(ValueError, match="missing or empty"):
        pairs.captions(1)


def test_a_caption_that_is_not_utf8_is_a_bad_record(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"filepath,title\na.jpg,fine\nb.jpg,caf\xe9\nc\xe9.jpg,three\n")
    (tmp_path / "a.jsonl").write_bytes(
        b'{"image": "a.jpg", "text": "fine"}\n{"image": "b.jpg", "text": "caf\xe9"}\n'
        b'{"image": "c\xe9.jpg", "text": "three"}\n{"image": "d.jpg", "text": "half a pair: \\ud83d"}\n'
    )
    for pairs in (open_csv(tmp_path / "a.csv"), open_jsonl(tmp_path / "a.jsonl")):
        assert pairs.captions(0) == ("fine",) and pairs.captions(2) == ("three",)
        for index in range(len(pairs)):
            if index not in (0, 2):
                with pytest.raises(UnicodeDecodeError):
                    pairs.captions(index)
        assert pairs.key(2) == "c\\xe9.jpg" and pairs.find([pairs.key(2), "b.jpg", "none"]).tolist() == [1, 2]
    (tmp_path / b"c\xe9.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"its bytes")
    assert pairs.image_bytes(2) == b"its bytes"


def test_rows_that_cannot_be_read_are_left_out_with_a_warning(tmp_path, caplog):
    """Up to 1 %; above that the table is refused."""
    many = [(f"{i}.jpg", f"text {i}") for i in range(300)]
    file = write_csv(tmp_path, [*many[:50], ("lonely",), ("a.jpg", "b", "c"), ("", "no image"), *many[50:]])
    assert content(open_csv(file)) == [(name, (text,)) for name, text in many]
    assert "3 of 303 rows left out: line 52: 1 fields instead of 2; line 53: 3 fields" in caplog.text
    lines = [json.dumps({"image": name, "text": text}) for name, text in many]
    lines[50:50] = ["{", "[1]", '{"text": "no image"}', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert content(open_jsonl(tmp_path / "a.jsonl")) == [(name, (text,)) for name, text in many]
    assert "3 of 303 rows left out: line 51: Expecting" in caplog.text
    with pytest.raises(UserError, match=r"3 of 27 rows cannot be read. First: line 2: 1 fields"):
        open_csv(write_csv(tmp_path, [("lonely",)] * 3 + ROWS))


# ---------------------------------------------------------------- invalid tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a table needs a header line"),
        ("\n\n", "is empty: a table needs a header line"),
        ("filepath,title\n", "has a header line, but no rows"),
        ("url,title\nx,y\n", "for images, such as .*config.data.image_key. Columns found: 'url', 'title'"),
        ("filepath;key\nx;y\n", "for captions.*config.data.caption_key. Columns found: 'filepath', 'key'"),
        ("just text", "Columns found: 'just text'"),
    ],
)
def test_invalid_tables(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        open_csv(tmp_path / "a.csv")
    assert "\n" not in str(caught.value) and "a.csv" in str(caught.value)


def test_missing_files_and_empty_ones(tmp_path):
    (tmp_path / "empty").touch()
    for open_pairs in (open_csv, open_jsonl):
        with pytest.raises(UserError, match=r"cannot read the table .*none \(No such file"):
            open_pairs(tmp_path / "none")
        with pytest.raises(UserError, match="is empty"):
            open_pairs(tmp_path / "empty")


def test_a_named_column_is_taken(tmp_path):
    file = write_csv(tmp_path, [("u", "a.jpg", "x", "y")], ("filepath", "where", "title", "alt"))
    assert content(open_csv(file, image_key="where", caption_key="alt")) == [("a.jpg", ("y",))]
    with pytest.raises(UserError, match=r"has no column 'were'. Did you mean 'where'\?"):
        open_csv(file, image_key="were")


def test_digests_differ_between_tables(tmp_path):
    digests = [
        open_csv(write_csv(tmp_path, ROWS)).digest(),
        open_csv(write_csv(tmp_path, ROWS, separator="\t")).digest(),
    ]
    assert digests[0] == digests[1]  # the same pairs
    changed = [ROWS[:-1], ROWS[::-1], [(ROWS[0][0], "other"), *ROWS[1:]], [("x.jpg", ROWS[0][1]), *ROWS[1:]]]
    changed += [[(name, text.swapcase()) for name, text in ROWS]]  # of the same length
    digests += [open_csv(write_csv(tmp_path, rows)).digest() for rows in changed]
    assert len(set(digests)) == 6


def test_a_large_table_holds_no_object_for_each_row(tmp_path):
    """The table is in memory as its text, and some bytes per row for offsets."""
    count = 200_000
    file = tmp_path / "large.csv"
    file.write_text("filepath,title\n" + "".join(f"pics/{i:08d}.jpg,caption number {i}\n" for i in range(count)))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    pairs = open_csv(file)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == count and pairs.captions(count - 1) == (f"caption number {count - 1}",)
    text = len("pics/00000000.jpg") + len("caption number 199999")
    assert held + pa.total_allocated_bytes() - before < (text + 3 * 8 + 4) * count


def test_urls_with_secrets_as_paths(tmp_path):
    """Keys have no secrets; a new signature is not new data; keys stay unique."""
    digests = set()
    for signature in ("hunter2", "hunter3"):
        rows = [(f"https://me:pw@h/{i}.jpg?sig={signature}{i}", f"text {i}") for i in range(2)]
        same = [(f"https://h/get?key={signature}{i}", f"text {i}") for i in range(2)]
        pairs = open_csv(write_csv(tmp_path, [*rows, *same]))
        names = [pairs.key(i) for i in range(4)]
        assert names[:2] == [f"https://REDACTED@h/{i}.jpg?sig=REDACTED" for i in range(2)]
        assert names[2:] == ["https://h/get?key=REDACTED (2)", "https://h/get?key=REDACTED (3)"]
        assert [pairs.find({name}).tolist() for name in names] == [[0], [1], [2], [3]]
        digests.add(pairs.digest())
    assert len(digests) == 1
