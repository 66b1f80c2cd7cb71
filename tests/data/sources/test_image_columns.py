"""Tables with several columns of images: the one whose images can be read is used. Backslashes in paths."""

import os

import pyarrow as pa
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import delimited, parquet
from rankclip_jax.errors import UserError
from tests.support.pair_files import jpeg, write_csv, write_images, write_parquet

COUNT = 6
BYTES = [jpeg(number) for number in range(COUNT)]
TEXTS = [f"text {number}" for number in range(COUNT)]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
GONE = [f"/home/author/{number}.jpg" for number in range(COUNT)]


def images(tmp_path, columns, **options):
    """The images of a Parquet file with these columns."""
    file = write_parquet(tmp_path / "a.parquet", {**columns, "text": TEXTS})
    pairs = parquet.open_pairs([str(file)], PairOptions(**options))
    return [pairs.image_bytes(index) for index in range(len(pairs))]


def test_images_are_preferred_to_paths_of_another_machine(tmp_path):
    structs = pa.array([{"bytes": data, "path": None} for data in BYTES], STRUCT)
    for name, column in (("images", BYTES), ("image", structs)):
        assert images(tmp_path, {"image_path": GONE, name: column}) == BYTES
        assert images(tmp_path, {"image_path": ["https://x.org/a.jpg"] * COUNT, name: column}) == BYTES


def test_paths_are_preferred_to_bytes_that_are_no_images(tmp_path):
    names = write_images(tmp_path, COUNT)
    hashes = [bytes([number]) * 16 for number in range(COUNT)]
    structs = pa.array([{"bytes": None, "path": path} for path in GONE], STRUCT)
    for column in (hashes, structs, pa.array([None] * COUNT, pa.binary()), list(range(COUNT))):
        assert images(tmp_path, {"image": column, "path": names}) == BYTES


def test_the_first_usual_name_among_columns_that_work(tmp_path):
    assert images(tmp_path, {"jpg": BYTES[::-1], "image": BYTES}) == BYTES
    assert images(tmp_path, {"jpg": BYTES[::-1], "image": BYTES}, image_key="jpg") == BYTES[::-1]
    with pytest.raises(FileNotFoundError):
        images(tmp_path, {"image": BYTES, "image_path": GONE}, image_key="image_path")


def test_no_column_works(tmp_path):
    message = r"any of the columns 'image_path' \(FileNotFoundError: .*; 'image' \(.*unidentified.*set config.data"
    with pytest.raises(UserError, match=message):
        images(tmp_path, {"image": [b"no image"] * COUNT, "image_path": GONE})


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_backslashes_in_paths(tmp_path, table):
    """A name with a backslash comes first; a missing file is missing, and a broken one is not."""
    names = [name.replace("/", "\\") for name in write_images(tmp_path, COUNT)]
    (tmp_path / "a\\b.jpg").write_bytes(jpeg(9))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").write_bytes(jpeg(8))
    names += ["a\\b.jpg", "pics\\none.jpg", "pics\\locked.jpg"]
    os.mkfifo(tmp_path / "pics" / "locked.jpg")
    texts = [f"text {number}" for number in range(len(names))]
    if table == "csv":
        file = write_csv(tmp_path, list(zip(names, texts, strict=True)))
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        pairs = delimited.open_pairs([str(file)], PairOptions())
    else:
        file = write_parquet(tmp_path / "a.parquet", {"path": names, "text": texts})
        pairs = parquet.open_pairs([str(file)], PairOptions())
    assert [pairs.image_bytes(index) for index in range(7)] == [*BYTES, jpeg(9)]
    with pytest.raises(FileNotFoundError):
        pairs.image_bytes(7)
    with pytest.raises(OSError, match="is a pipe or a device"):
        pairs.image_bytes(8)
