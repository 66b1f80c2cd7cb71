"""Folders of Hugging Face `datasets`, from `save_to_disk` or the hub, read without that library.

The split follows "#": ``huggingface:my_dataset#train``. If there are several configurations, such as languages, so does
the configuration: ``huggingface:my_dataset#en/train``. Both are found by the names of files (`hub_names`).

Arrow files are memory-mapped, and any row is read directly. Parquet files are read as in the format `parquet`, and
folders of images as in the format `image_folder`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rankclip_jax.data.images.extensions import SUFFIXES
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources import image_folder, paths
from rankclip_jax.data.sources.cells import ArrowCells, pairs_of
from rankclip_jax.data.sources.hub_names import Shards, choose_shards, find_shards
from rankclip_jax.data.sources.image_metadata import METADATA
from rankclip_jax.data.sources.parquet import ParquetCells
from rankclip_jax.data.sources.split_column import split_column
from rankclip_jax.data.storage import locations
from rankclip_jax.data.storage.folders import walk
from rankclip_jax.errors import UserError

STATE = "state.json"
KINDS = (".parquet", ".arrow")  # Parquet is preferred


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open a folder.

    Raises:
      UserError: it has another layout, lacks the split, or has several configurations or splits and none is named.
    """
    if len(files) != 1 or locations.is_url(files[0]) or not os.path.isdir(files[0]):
        raise UserError(f"{files[0]} is not one local folder: format huggingface reads a folder of `datasets`.")
    folder = files[0]
    found = _saved_splits(folder) or _shards(folder)
    if not found and any(name.lower().endswith(SUFFIXES) for _, names in walk(folder) for name in names):
        return image_folder.open_pairs(files, options)  # the layout of `imagefolder`
    if not found:
        raise UserError(f"no .arrow or .parquet files or images in {folder}: is it a folder of `datasets`?")
    is_single = len(found) == 1  # then "#" may name a split in a column of splits
    shards = choose_shards(found, "" if is_single else options.split, folder)
    cells = ParquetCells(shards) if shards[0].lower().endswith(".parquet") else MappedCells(shards)
    if not (is_single and split_column(cells.schema.names)):
        choose_shards(found, options.split, folder)
        options = replace(options, split="")
    return pairs_of(cells, paths.image_folder(options, folder), options, folder)


def _saved_splits(folder: str) -> Shards:
    """The splits that `save_to_disk` wrote, if it did."""
    if os.path.exists(os.path.join(folder, STATE)):
        return {("", "train"): _saved(folder)}
    inside = {name: os.path.join(folder, name) for name in sorted(os.listdir(folder))}
    return {("", name): _saved(path) for name, path in inside.items() if os.path.exists(os.path.join(path, STATE))}


def _shards(folder: str) -> Shards:
    """The files of one kind below `folder`, by configuration and split."""
    # The metadata of `imagefolder` are a table of images, and no data by themselves.
    files = sorted(os.path.join(base, n) for base, names in walk(folder) for n in names if n.lower() not in METADATA)
    of_kind = ([file for file in files if file.lower().endswith(kind)] for kind in KINDS)
    return find_shards(next(filter(None, of_kind), []), folder)


def _saved(folder: str) -> list[str]:
    """The files listed in state.json. Other files, such as files of an earlier save, are ignored."""
    path = os.path.join(folder, STATE)
    try:
        names = [file["filename"] for file in json.loads(locations.read(path))["_data_files"]]
        if names and all(name.endswith(KINDS) for name in names):
            return [os.path.join(folder, name) for name in names]
        problem = f"its files are {names!r:.80}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error)
    raise UserError(f"{path} is damaged ({problem}): save the data set again.")


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
    locations.check_files([file])
    try:
        try:
            table = pa.ipc.open_stream(pa.memory_map(file)).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(pa.memory_map(file)).read_all()
        table.validate(full=True)  # wrong offsets would read outside the file; images are not read
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read {file} as Arrow ({error}): is it complete?") from None
