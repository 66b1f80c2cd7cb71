"""Files that are given as tables and are none: one line says what they are."""

import gzip
import io
import zipfile

import pytest

from rankclip_jax.errors import UserError
from tests.support.pair_files import load

TABLE = b"filepath,title\n1.jpg,a fox\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("pairs.csv", TABLE)
    return file.getvalue()


@pytest.mark.parametrize("name", ["csv", "jsonl", "coco"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(TABLE), "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "compressed by zstd"),
        (zipped(), "a zip file or an Excel workbook"),
        (b"PAR1" + bytes(40) + b"PAR1", "a Parquet file"),
    ],
    ids=["gzip", "zstd", "zip", "parquet"],
)
def test_files_that_are_no_text(tmp_path, name, data, kind):
    (tmp_path / "pairs").write_bytes(data)
    with pytest.raises(UserError, match=f"pairs is {kind}, not text: decompress it, save it as CSV or JSON"):
        load(name, tmp_path, train="pairs")


@pytest.mark.parametrize(
    "first", ["1.jpg,a fox", "a fox\thttp://host/1.jpg", "1.jpg#0\ta fox", "sep=;", "", "https://host/1,a fox"]
)
def test_a_first_line_that_is_no_header(tmp_path, first):
    (tmp_path / "pairs.csv").write_text(f"{first}\nfilepath,title\n2.jpg,a cat\n")
    with pytest.raises(UserError, match=r"the first line is .*; it must be a header, such as filepath,title"):
        load("csv", tmp_path, train="pairs.csv")
