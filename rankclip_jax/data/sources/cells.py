"""Pairs in the columns of a table. Images are bytes, Hugging Face's struct {bytes, path}, or paths."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankclip_jax.data.mixture import Subset
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.class_names import class_names_of
from rankclip_jax.data.sources.columns import CAPTIONS, LABELS, find_usual, text_columns
from rankclip_jax.data.sources.image_columns import ImageColumn, choose_image_column, is_image, is_text, value_type
from rankclip_jax.data.sources.labels import checked_label, class_captions
from rankclip_jax.data.sources.split_column import rows_of_splits, split_column
from rankclip_jax.data.sources.strings import packed_column
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, kept
from rankclip_jax.data.storage.folders import names_below
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import parse_json
from rankclip_jax.terminal.redact import redacted


class Cells:
    """Base class: random access to the cells of a table, by column and row."""

    def __len__(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def cell(self, column: str, index: int) -> Any:
        """One value of a column of texts or labels; the column may stay in memory."""
        raise NotImplementedError

    def large_cell(self, column: str, index: int) -> Any:
        """One value of a column of images; few values stay in memory."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The key of a row."""
        raise NotImplementedError

    def digest(self) -> str:
        """sha256 hex; each format says what it covers."""
        raise NotImplementedError


class ArrowCells(Cells):
    """Base class: the cells of some files. Keys are file and row, as in "train.parquet:17"."""

    def __init__(self, files: Sequence[str], schemas: Sequence[pa.Schema], row_counts: Sequence[int]):
        """Take at least one path or URL, and the schema and number of rows of each."""
        self.schema = schemas[0]
        self.schemas = tuple(zip(files, schemas, strict=True))
        self._files, self._file_starts = tuple(files), np.cumsum([0, *row_counts])
        self._names = names_below([redacted(file) for file in files])

    def __len__(self) -> int:
        return int(self._file_starts[-1])

    def whole(self, column: str) -> Iterable[pa.Array]:
        """The parts of a column of texts, from all files; their types may differ."""
        raise NotImplementedError

    def fields(self, column: str) -> list[tuple[str, pa.Field]]:
        """Each file, and the type of the column in it; `UserError` if one lacks the column."""
        for file, schema in self.schemas:
            if column not in schema.names:
                raise UserError(
                    f"{file} has columns {schema.names}, {self._files[0]} has {self.schema.names}: use two locations."
                )
        return [(file, schema.field(column)) for file, schema in self.schemas]

    def name(self, index: int) -> str:
        file = int(np.searchsorted(self._file_starts, index, "right")) - 1
        return f"{self._names[file]}:{index - self._file_starts[file]}"


def pairs_of(cells: ArrowCells, folder: str, options: PairOptions, where: str) -> PairSource:
    """The pairs in the columns that `options` names.

    Args:
      cells: all columns.
      folder: the folder that image paths are relative to.
      options: names of the columns, or "" for usual names.
      where: file or folder, for messages.

    Raises:
      UserError: a column is missing or has another type, or there are no rows.
    """
    names = cells.schema.names
    if not len(cells):
        raise UserError(f"{where} has no rows: check the file.")
    image = choose_image_column(cells, folder, options, where)
    for file, field in cells.fields(image):
        _check_image(field, file)
    keep = rows_of_splits(_splits(cells), options.split, where)
    label = None if options.caption_key or find_usual(names, CAPTIONS) else _label_column(cells.schema)
    if label:
        home = where if os.path.isdir(where) else os.path.dirname(where)
        names = class_names_of(_names_of(cells, label), [home], where)
        return _subset(LabelledCells(ImageColumn(cells, image, folder), label, names, options.templates), keep)
    texts = text_columns(names, options, where)
    for name in texts:
        for file, field in cells.fields(name):
            _check_text(field, file)
    if all(is_text(value_type(field.type)) for _, field in cells.fields(image)):
        return TablePairs(kept(_rows(cells, image, texts), keep), folder)
    return _subset(CaptionedCells(ImageColumn(cells, image, folder), *texts), keep)


def _splits(cells: ArrowCells) -> pa.ChunkedArray | None:
    """The split of each row; None if there is no column of splits."""
    column = split_column(cells.schema.names)
    if column is None or not all(is_text(value_type(field.type)) for _, field in cells.fields(column)):
        return None
    return pa.chunked_array([_plain(part) for part in cells.whole(column)])


class _OfSplits(Subset):
    """The pairs of some splits."""

    def digest(self) -> str:
        """Covers the source, and which pairs are chosen."""
        return f"{super().digest()} {hashlib.sha256(self._indices.tobytes()).hexdigest()}"


def _subset(pairs: PairSource, keep: np.ndarray | None) -> PairSource:
    return pairs if keep is None else _OfSplits(pairs, np.flatnonzero(keep))


class _CellPairs(PairSource):
    """One pair per row."""

    def __init__(self, images: ImageColumn):
        self._images, self._cells = images, images.cells

    def __len__(self) -> int:
        return len(self._cells)

    def key(self, index: int) -> str:
        return self._cells.name(index)

    def image_bytes(self, index: int) -> bytes:
        return self._images.read(index)


class CaptionedCells(_CellPairs):
    """Images with a column of captions and optionally a column of second captions."""

    def __init__(self, images: ImageColumn, caption: str, second: str = ""):
        super().__init__(images)
        self._caption, self._second = caption, second
        self.has_second_captions = bool(second)

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._cells.cell(self._caption, index))

    def second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._cells.cell(self._second, index)) if self._second else ()

    def digest(self) -> str:
        return self._cells.digest()


class LabelledCells(_CellPairs):
    """Images with a column of labels, indices into `class_names`."""

    def __init__(self, images: ImageColumn, label: str, class_names: tuple[str, ...], templates: Sequence[str]):
        super().__init__(images)
        self._label = label
        self.class_names = class_names
        self._captions = class_captions(self.class_names, templates)

    def label(self, index: int) -> int:
        return checked_label(self._cells.cell(self._label, index), self.class_names)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self.label(index)]

    def digest(self) -> str:
        return f"{self._cells.digest()} {self._captions}"


def _rows(cells: ArrowCells, image: str, texts: Sequence[str]) -> Rows:
    captions = (_texts(cells.whole(name)) for name in texts)
    return Rows(pa.concat_arrays([_plain(part) for part in cells.whole(image)]), *captions)


def _texts(parts: Iterable[pa.Array]) -> Texts:
    """The texts in some parts of a column, each a text or a list of texts per row."""
    values, rows, start = [], [], 0
    for part in parts:
        own = np.arange(len(part))
        row_count = len(part)
        if _is_list(part.type):
            own, part = pc.list_parent_indices(part).to_numpy(), pc.list_flatten(part)
        values.append(_plain(part))
        rows.append(own + start)
        start += row_count
    return Texts(pa.concat_arrays(values), np.concatenate(rows))


def _plain(part: pa.Array) -> pa.LargeBinaryArray:
    """Texts of any type, also dictionaries and nulls, in one type."""
    kind = pa.large_string() if pa.types.is_null(part.type) else value_type(part.type)
    return packed_column(part.cast(kind))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _check_image(field: pa.Field, where: str) -> None:
    if not is_image(field):
        raise UserError(
            f"{where}: image column {field.name!r} holds {field.type}; it must hold encoded bytes, paths, or "
            "structs of `bytes` and `path`: name another column in config.data.image_key, or encode the images."
        )


def _check_text(field: pa.Field, where: str) -> None:
    kind = value_type(field.type)
    if not is_text(value_type(kind.value_type) if _is_list(kind) else kind):
        raise UserError(
            f"{where}: caption column {field.name!r} holds {field.type}; it must hold texts or lists of texts: "
            "name another column in config.data.caption_key."
        )


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Class names by label column, which Hugging Face stores in the schema."""
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _names_of(cells: ArrowCells, label: str) -> list[str]:
    """The class names of a column of labels; `UserError` if files have different ones."""
    cells.fields(label)  # checks that all files have the column
    named = ((file, _label_names(schema).get(label)) for file, schema in cells.schemas)
    found = {tuple(names): file for file, names in named if names}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise UserError(f"{first} and {second} have different class names in column {label!r}: use two locations.")
    return list(next(iter(found)))


def _label_column(schema: pa.Schema) -> str | None:
    known = _label_names(schema)
    return find_usual(known, LABELS) or next(iter(known), None)
