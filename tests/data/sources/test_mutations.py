"""Mutated files of every format: read, or refused in one line. No other error, no long message, no long wait.

The short form runs with the tests; the soak has 2,000 files: ``pytest -m slow``.
"""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankclip_jax.errors import UserError
from tests.support.limits import Limits
from tests.support.pair_files import load
from tests.support.tar_files import write_tar

SHORT, SOAK = 200, 2000
LETTERS = 1500  # limit of a message
PARTS = [
    *(b'"', b"\n", b"\r", b"\t", b",", b"\0", b"[", b"{", b"}", b"]", b"\\", b":", b'""', b"null", b"true", b"1e999"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\\ud800", b"\x1b[2J", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000),
]  # fmt: skip


def originals(folder):
    """Sound files by name of the format, with their file names."""
    table = pa.table({"image": [f"{i}.jpg" for i in range(30)], "caption": [f"caption {i}" for i in range(30)]})
    lists = table.set_column(1, "caption", pa.array([[f"caption {i}"] for i in range(30)]))
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pq.write_table(lists, parquet, row_group_size=7)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    parts = (("jpg", b"x" * 50), ("txt", b"a caption"), ("json", b'{"caption": "another"}'))
    tar = write_tar(folder / "a.tar", [(f"{i}.{end}", data) for i in range(6) for end, data in parts])
    items = [{"image": f"{i}.jpg", "caption": [f"caption {i}", "b"]} for i in range(30)]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(9)]
    coco = {"images": images, "annotations": [{"image_id": i, "caption": f"caption {i}"} for i in range(9)]}
    quoted = "".join(f'{i}.jpg,"caption, ""{i}"""\n' for i in range(30))
    plain = "".join(f'{i}.jpg\t"caption {i}\n' for i in range(30))
    return [
        ("csv", "a.csv", f"image,caption\n{quoted}".encode()),
        ("tsv", "a.tsv", f"image\tcaption\n{plain}".encode()),
        ("jsonl", "a.jsonl", "\n".join(map(json.dumps, items)).encode()),
        ("jsonl", "a.json", json.dumps(items, indent=1).encode()),
        ("coco", "a.json", json.dumps(coco).encode()),
        ("parquet", "a.parquet", parquet.getvalue()),
        ("huggingface", "train-00000-of-00001.arrow", arrow.getvalue()),
        ("webdataset", "a.tar", tar.read_bytes()),
    ]


def mutated(data, rng):
    """1 to 20 changes: of a byte or a bit, insertions, deletions, copies, and a cut."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        first, last = sorted(rng.choices(range(len(data) + 1), k=2))
        match rng.randrange(6):
            case 0 if data:
                data[first % len(data)] = rng.randrange(256)
            case 1 if data:
                data[first % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                data[first:first] = rng.choice(PARTS)
            case 3:
                del data[first : min(last, first + rng.choice((10, 10_000)))]
            case 4:
                data[last:last] = data[first : first + 500]
            case 5 if rng.random() < 0.3:
                del data[first:]
    return bytes(data)


def read_all(kind, folder, name, rng):
    """Load a file and read its captions; return the refusal, or ""."""
    options = {"caption_split": rng.choice(("", "", "lines", "list"))}
    if kind == "webdataset":
        options["caption_key"] = rng.choice(("", "json.caption"))
    try:
        train = load(kind, "", train=str(folder if kind == "huggingface" else folder / name), **options).train
    except UserError as error:
        return str(error)
    for index in range(min(len(train), 40)):
        train.key(index)
        try:
            train.captions(index)
        except Exception:  # a bad record, which the loader replaces
            continue
    return ""


@pytest.mark.parametrize("count", [SHORT, pytest.param(SOAK, marks=pytest.mark.slow)])
def test_mutated_files(tmp_path, count):
    rng, refusals, limits = random.Random(count), 0, Limits()
    files = originals(tmp_path)
    for number in range(count):
        kind, name, data = rng.choice(files)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(mutated(data, rng))
        with limits.of(number):
            message = read_all(kind, folder, name, rng)
        assert len(message) < LETTERS, (number, message)
        refusals += bool(message)
    assert 0.2 * count < refusals < 0.95 * count  # the changes are neither too small nor too large
    limits.show()
