"""Quotation marks in tables: syntax if they are consistent, text otherwise; no field swallows rows silently."""

import csv

import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import delimited
from rankclip_jax.errors import UserError
from tests.support.pair_files import write_csv


def read(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    pairs = delimited.open_pairs([str(path)], PairOptions())
    return [(pairs.key(i), *pairs.captions(i)) for i in range(len(pairs))]


def lines(captions, separator="\t", end="\n"):
    rows = [f"{number}.jpg{separator}{caption}" for number, caption in captions.items()]
    return end.join([f"filepath{separator}title", *rows]) + end


def plain(count=200, **special):
    return {i: special.get(f"at{i}", f"plain caption {i}") for i in range(count)}


@pytest.mark.parametrize("separator", ["\t", ";", "|", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "special",
    [
        {"at50": '"hello he said', "at99": '"hello again'},  # closed by the next one
        {"at50": '"hello he said', "at99": 'and "bye"'},  # a field that would be valid, with 49 rows
        {"at50": '"never closed'},
        {"at50": '"Hello" by Adele', "at60": '"all of it"', "at61": '6" pipe'},
        {"at0": '"""', "at199": '"'},
    ],
)
def test_marks_that_are_text(tmp_path, special, separator, end):
    captions = plain(**special)
    expected = [(f"{i}.jpg", caption) for i, caption in captions.items()]
    assert read(tmp_path / "a.tsv", lines(captions, separator, end)) == expected


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_marks_that_are_syntax(tmp_path, quoting, separator):
    """As Python's csv module writes and reads them, with separators, marks and line breaks in the captions."""
    rows = [(f"{i}.jpg", text) for i, text in enumerate(['a "b" c', "a,b\tc", '"', "one\ntwo, three\n", '"x"', ""])]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)
        writer.writerows([("filepath", "title"), *rows])
    data = (tmp_path / "a.csv").read_bytes()
    assert read(tmp_path / "b.csv", data[: data.rindex(b"5.jpg") - (quoting == csv.QUOTE_ALL)]) == [
        (name, text.strip()) for name, text in rows[:-1]
    ]


def test_marks_escaped_by_a_backslash(tmp_path):
    text = 'filepath,title\n1.jpg,"say \\"hi\\", twice"\n2.jpg,"""x\\""\n3.jpg,plain\n'
    assert read(tmp_path / "a.csv", text) == [("1.jpg", 'say "hi", twice'), ("2.jpg", '"x"'), ("3.jpg", "plain")]


@pytest.mark.parametrize(
    ("broken", "line"), [('"open', 52), ('"closed" early"', 52), ('"open\n50b.jpg,"', 52), ('"two ""\n', 52)]
)
def test_a_damaged_file_of_quoted_rows_names_the_line(tmp_path, broken, line):
    captions = {i: f'"caption, {i}"' for i in range(100)} | {50: broken}
    with pytest.raises(
        UserError, match=rf"a\.csv, line {line}: a (field begins with a )?quotation mark.*Most rows are quoted"
    ):
        read(tmp_path / "a.csv", lines(captions, ","))


def test_rows_that_are_lost_by_text_marks_name_the_line(tmp_path):
    captions = plain(at50='"hello, he said', at99='"hello, again', at120='"quoted, well"', at130='"and, this"')
    with pytest.raises(
        UserError, match=r"4 of 200 rows cannot be read. First: line 52: a field begins with a quotation"
    ):
        read(tmp_path / "a.csv", lines(captions, ","))


def test_other_encodings(tmp_path):
    captions = {0: "ein Fuchs — 狐", 1: '"quoted"'}
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32"):
        found = read(tmp_path / "a.tsv", lines(captions).encode(encoding))
        assert found == [("0.jpg", "ein Fuchs — 狐"), ("1.jpg", "quoted")]


def test_rows_of_another_encoding(tmp_path, caplog):
    """A broken row is left out, and a caption that is not UTF-8 is a bad record, each without harm to the others."""
    rows = [f"{i}.jpg,caption {i}".encode() for i in range(300)]
    rows[9], rows[20] = b"9.jpg,caf\xe9", b"\xe9.jpg,two,fields \xff"
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,caption\n" + b"\n".join(rows))
    pairs = delimited.open_pairs([str(path)], PairOptions())
    assert len(pairs) == 299 and "1 of 300 rows left out: line 22: 3 fields instead of 2" in caplog.text
    with pytest.raises(UnicodeDecodeError):
        pairs.captions(9)
    assert pairs.captions(298) == ("caption 299",) and pairs.key(19) == "19.jpg"


def test_a_first_line_that_is_no_header(tmp_path):
    with pytest.raises(UserError, match=r"the first line has 200,004 bytes; it must be a header"):
        read(tmp_path / "a.csv", f"a,b{'x' * 200_000},\n1.jpg,y\n")


@pytest.mark.parametrize("begin", ["/9j/", "iVBORw0KGgo", "UklGR", "data:image/png;base64,iVBOR"])
def test_images_as_base64_text(tmp_path, begin):
    file = write_csv(tmp_path, [(f"{begin}{'Ab+/' * 100}", "a fox")])
    with pytest.raises(UserError, match="the image column holds base64 text") as caught:
        delimited.open_pairs([str(file)], PairOptions())
    assert len(str(caught.value)) < 200
