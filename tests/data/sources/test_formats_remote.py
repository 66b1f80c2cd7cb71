"""Tables, their images and Parquet files over HTTP, from a real local server."""

import pytest

from tests.support import pair_files
from tests.support.http_files import retry_quickly, serving
from tests.support.pair_files import COUNT, caption, jpeg, write_all


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_all(folder)
    with serving(folder) as server:
        yield server


def load(served, name, **options):
    return pair_files.load(name, served.url, **options).train


@pytest.mark.parametrize("name, file", [("csv", "pairs.csv"), ("jsonl", "pairs.jsonl"), ("coco", "coco.json")])
def test_tables_and_their_images(served, name, file):
    train = load(served, name, train=file)
    assert len(train) == COUNT and train.captions(5) == (caption(5),) and train.pairs.image_bytes(5) == jpeg(5)


def test_parquet_is_read_by_ranges(served):
    size = (served.folder / "pairs.parquet").stat().st_size
    train = load(served, "parquet", train="pairs.parquet")
    served.requests.clear()
    for index in (23, 2, 11):
        assert train.pairs.image_bytes(index) == jpeg(index) and train.captions(index) == (caption(index),)
    ranges = [asked.removeprefix("bytes=").split("-") for _, asked in served.requests if asked]
    assert 0 < sum(int(end) - int(begin) + 1 for begin, end in ranges) < size


def test_a_missing_image_is_a_bad_record(served, monkeypatch):
    retry_quickly(monkeypatch)
    train = load(served, "csv", train="pairs.csv", image_root="elsewhere")
    with pytest.raises(FileNotFoundError):
        train.pairs.image_bytes(0)
