"""The same small pairs as files of every format, written by third-party libraries."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import assemble
from rankclip_jax.data.sources.options import FileOptions

COUNT = 24


def load(name: str, root: Path | str, **options) -> Dataset:
    """The data set of some `FileOptions`."""
    return assemble.load(FileOptions(name=name, root=str(root), **options))


def jpeg(number: int, side: int = 20) -> bytes:
    """An image of random pixels; both pixels and height depend on the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side + number % 5, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def caption(number: int) -> str:
    """A caption that contains its number, separators and quotes."""
    return f'image "{number}", drawn\tby é; number {number}'


def write_images(folder: Path, count: int = COUNT) -> list[str]:
    """Write images to ``folder/pics``; return their paths relative to `folder`."""
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    names = [f"pics/{number:03d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    return names


def write_csv(folder: Path, rows: list[tuple], header=("filepath", "title"), separator=",", name="pairs.csv") -> Path:
    """Write a table with Python's csv module."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
    return folder / name


def write_tables(folder: Path, **counts: int) -> None:
    """Write a table without images for each letter: ``a=100`` is ``a.csv`` with the pairs a0, a1, ... a99."""
    for letter, count in counts.items():
        rows = [(f"{letter}{i}", f"caption of {letter}{i}") for i in range(count)]
        write_csv(folder, rows, name=f"{letter}.csv")


def keys(records) -> list[str]:
    """The keys of all records, in order."""
    return [records.key(i) for i in range(len(records))]


def write_jsonl(folder: Path, items: list, name: str = "pairs.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder / name


def write_parquet(path: Path, columns: dict, group: int = 5, metadata: dict | None = None) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return path


def write_all(folder: Path, count: int = COUNT) -> dict[str, str]:
    """Write the pairs in every format of files; return the location of each by format name."""
    names = write_images(folder, count)
    numbers = range(count)
    rows = [(name, caption(number)) for number, name in enumerate(names)]
    write_csv(folder, rows)
    write_csv(folder, rows, separator="\t", name="pairs.tsv")
    write_jsonl(folder, [{"image": name, "caption": text} for name, text in rows])
    captions = [caption(number) for number in numbers]
    write_parquet(folder / "pairs.parquet", {"jpg": [jpeg(number) for number in numbers], "txt": captions})
    coco = {
        "images": [{"id": 7 * number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": 7 * number, "caption": captions[number]} for number in reversed(numbers)],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    write_saved_dataset(folder / "saved", numbers)
    write_saved_dataset(folder / "saved", range(11), split="test")
    write_array_record(folder / "pairs.array_record", numbers)
    write_tars(folder / "tars", numbers)
    return {
        "csv": "pairs.csv",
        "tsv": "pairs.tsv",
        "jsonl": "pairs.jsonl",
        "parquet": "pairs.parquet",
        "coco": "coco.json",
        "huggingface": "saved#train",
        "arrayrecord": "pairs.array_record",
        "webdataset": "tars/{00000..00002}.tar",
    }


def write_tars(folder: Path, numbers: range, shards: int = 3) -> Path:
    """Write tars in the layout of img2dataset, with Python's tarfile."""
    folder.mkdir()
    size = -(-len(numbers) // shards)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in numbers[shard * size : (shard + 1) * size]:
                for extension, data in (("jpg", jpeg(number)), ("txt", caption(number).encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


def write_saved_dataset(folder: Path, numbers: range, split: str = "train") -> Path:
    """Write the layout of `datasets.DatasetDict.save_to_disk`: two shards of Arrow streams and a list of them."""
    shards = [range(numbers.start, numbers.start + 10), range(numbers.start + 10, numbers.stop)]
    where = folder / split
    where.mkdir(parents=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    files = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    for file, shard in zip(files, shards, strict=True):
        images = pa.array([{"bytes": jpeg(number), "path": None} for number in shard], kind)
        table = pa.table({"image": images, "text": [[caption(number)] for number in shard]})
        with pa.ipc.new_stream(where / file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    (where / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    return folder


def write_array_record(path: Path, numbers: range) -> Path:
    """Write ArrayRecord with its own library and msgpack, in the layout that `sources.array_record` describes."""
    import msgpack
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number in numbers:
        record = {"key": f"k{number}", "image": jpeg(number), "captions": [caption(number)]}
        writer.write(msgpack.packb(record))
    writer.close()
    return path
