"""Folders of Hugging Face `datasets`, from `save_to_disk` or the hub, read without that library.

The split follows "#": ``huggingface:my_dataset#train``. Arrow files are memory-mapped, and any row is read directly.
Parquet files are read as in the format `parquet`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.cells import ArrowCells, pairs_of
from rankclip_jax.data.sources.parquet import ParquetCells
from rankclip_jax.data.sources.paths import image_folder
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError, lookup

SHARD = re.compile(r"(?P<split>.+?)(-\d{5}-of-\d{5}|-\d+)?\.(arrow|parquet)")


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open a folder; `UserError` if it has another layout, lacks the split, or has several splits and none is named."""
    if len(files) != 1 or locations.is_url(files[0]) or not os.path.isdir(files[0]):
        raise UserError(f"{files[0]} is not one local folder: format huggingface reads a folder of `datasets`.")
    folder = files[0]
    shards = _shards(folder, options.split)
    cells = ParquetCells(shards) if shards[0].endswith(".parquet") else MappedCells(shards)
    return pairs_of(cells, image_folder(options, folder), options, folder)


def _shards(folder: str, split: str) -> list[str]:
    splits = _splits(folder)
    if not splits:
        raise UserError(f"no .arrow or .parquet files in {folder}: is it a folder of `datasets`?")
    if split:
        return lookup(splits, split, f"split of {folder}")
    if len(splits) > 1:
        raise UserError(
            f"{folder} holds several splits: name one, as in {folder}#{next(iter(splits))}. Known: {', '.join(splits)}."
        )
    return next(iter(splits.values()))


def _splits(folder: str) -> dict[str, list[str]]:
    """Files of each split, in order."""
    saved = {name: os.path.join(folder, name) for name in sorted(os.listdir(folder))}
    saved = {name: path for name, path in saved.items() if os.path.exists(os.path.join(path, "state.json"))}
    if saved:
        return {name: _saved(path) for name, path in saved.items()}
    if os.path.exists(os.path.join(folder, "state.json")):
        return {"train": _saved(folder)}
    found: dict[str, list[str]] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".parquet", ".arrow")):
                found.setdefault(_split_of(name, os.path.basename(base)), []).append(os.path.join(base, name))
    kinds = {os.path.splitext(path)[1] for paths in found.values() for path in paths}
    wanted = ".parquet" if ".parquet" in kinds else ".arrow"
    kept = {split: [path for path in paths if path.endswith(wanted)] for split, paths in found.items()}
    return {split: paths for split, paths in kept.items() if paths}


def _saved(folder: str) -> list[str]:
    """The files listed in state.json. Other files, such as files of an earlier save, are ignored."""
    path = os.path.join(folder, "state.json")
    try:
        return [os.path.join(folder, file["filename"]) for file in json.loads(locations.read(path))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): save the data set again.") from None


def _split_of(name: str, folder: str) -> str:
    """Name of the split: "train" for ``train-00000-of-00002.parquet`` and for ``train/0000.parquet``."""
    split = SHARD.fullmatch(name)["split"]
    return folder if split.isdigit() else split.rpartition("/")[2]


class MappedCells(ArrowCells):
    """Memory-mapped Arrow files."""

    def __init__(self, files: Sequence[str]):
        tables = [_mapped(file) for file in files]
        super().__init__(files, [table.schema for table in tables], [table.num_rows for table in tables])
        self._batches = [batch for table in tables for batch in table.to_batches()]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def cell(self, column: str, index: int) -> Any:
        batch = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._batches[batch].column(column)[int(index - self._starts[batch])].as_py()

    large_cell = cell  # a mapped file takes no memory

    def whole(self, column: str) -> Iterator[pa.Array]:
        return (batch.column(column) for batch in self._batches)

    def digest(self) -> str:
        """Covers the names, sizes and numbers of rows of the files."""
        sizes = [(os.path.basename(file), locations.size(file)) for file in self._files]
        return hashlib.sha256(repr((sizes, self._file_starts.tolist())).encode()).hexdigest()


def _mapped(file: str) -> pa.Table:
    try:
        try:
            return pa.ipc.open_stream(pa.memory_map(file)).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(pa.memory_map(file)).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {file} as Arrow ({error}): is it complete?") from None
