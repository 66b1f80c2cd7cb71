"""Pairs in the columns of Arrow data: images as bytes, as Hugging Face's struct {bytes, path}, or as paths."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.columns import CAPTIONS, IMAGES, LABELS, find_column, find_usual, text_columns
from rankclip_jax.data.sources.labels import class_captions, in_words
from rankclip_jax.data.sources.paths import join
from rankclip_jax.data.sources.strings import Strings
from rankclip_jax.data.sources.tables import Rows, TablePairs
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError


class Cells(Protocol):
    """Random access to the cells of some files with the same columns."""

    schema: pa.Schema

    def __len__(self) -> int: ...

    def cell(self, column: str, index: int) -> Any:
        """One value, of a column with texts or labels, which may be kept in memory."""
        ...

    def large_cell(self, column: str, index: int) -> Any:
        """One value, of a column with images, of which few are kept."""
        ...

    def whole(self, column: str) -> pa.ChunkedArray: ...

    def name(self, index: int) -> str:
        """File and row."""
        ...

    def digest(self) -> str: ...


def pairs_of(cells: Cells, folder: str, options: PairOptions, where: str) -> PairSource:
    """The pairs in some columns.

    Args:
      cells: the columns.
      folder: what image paths are relative to.
      options: which columns.
      where: file or folder, for messages.

    Raises:
      UserError: a column is missing or of another type, or there are no rows.
    """
    names = cells.schema.names
    if not len(cells):
        raise UserError(f"{where} has no rows: it needs some.")
    image = find_column(names, options.image_key, IMAGES, "image_key", where)
    _check_image(cells.schema.field(image), where)
    label = None if options.caption_key or find_usual(names, CAPTIONS) else _label_column(cells.schema)
    if label:
        return LabelledCells(cells, image, folder, label, options.templates)
    texts = text_columns(names, options, where)
    for name in texts:
        _check_text(cells.schema.field(name), where)
    if _is_text(_plain(cells.schema.field(image).type)):
        return TablePairs(_rows(cells, image, texts), folder)
    return CaptionedCells(cells, image, folder, *texts)


class _Images:
    """What both kinds share; see `PairSource`."""

    def __init__(self, cells: Cells, image: str, folder: str):
        self._cells, self._image, self._folder = cells, image, folder

    def __len__(self) -> int:
        return len(self._cells)

    def key(self, index: int) -> str:
        return self._cells.name(index)

    def image_bytes(self, index: int) -> bytes:
        value = self._cells.large_cell(self._image, index)
        if isinstance(value, dict):
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise ValueError("the image is missing")
        return locations.read(join(self._folder, value)) if isinstance(value, str) else value


class CaptionedCells(_Images):
    """Images with a column of captions."""

    def __init__(self, cells: Cells, image: str, folder: str, caption: str, second: str = ""):
        super().__init__(cells, image, folder)
        self._caption, self._second = caption, second
        if second:
            self.second_captions = self._second_captions

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._cells.cell(self._caption, index))

    def _second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._cells.cell(self._second, index))

    def digest(self) -> str:
        return self._cells.digest()


class LabelledCells(_Images):
    """Images with a column of class numbers, whose names Hugging Face keeps in the schema."""

    def __init__(self, cells: Cells, image: str, folder: str, label: str, templates: Sequence[str]):
        super().__init__(cells, image, folder)
        self._label = label
        self.class_names = tuple(in_words(name) for name in _label_names(cells.schema)[label])
        self._captions = class_captions(self.class_names, templates)

    def label(self, index: int) -> int:
        """Its class, an index into `class_names`."""
        label = self._cells.cell(self._label, index)
        if label is None or not 0 <= label < len(self.class_names):
            raise ValueError(f"its class is {label}, of {len(self.class_names)}")
        return label

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self.label(index)]

    def digest(self) -> str:
        return f"{self._cells.digest()} {self._captions}"


def _rows(cells: Cells, image: str, texts: Sequence[str]) -> Rows:
    columns = []
    for name in texts:
        column = pa.concat_arrays(_decoded(cells.whole(name)).chunks)
        rows = np.arange(len(column))
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            rows, column = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
        columns.append((Strings.of_arrow(column), rows))
    return Rows(Strings.of_arrow(_decoded(cells.whole(image))), *columns)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_image(field: pa.Field, where: str) -> None:
    kind = _plain(field.type)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    is_struct = pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    if not (is_bytes or is_struct or _is_text(kind)):
        raise UserError(
            f"{where}: column {field.name!r} of images holds {field.type}; it must hold encoded bytes, paths, or "
            "structs of `bytes` and `path`: name another in config.data.image_key, or encode the images."
        )


def _check_text(field: pa.Field, where: str) -> None:
    kind = _plain(field.type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if not _is_text(kind):
        raise UserError(
            f"{where}: column {field.name!r} of captions holds {field.type}; it must hold texts or lists of texts: "
            "name another in config.data.caption_key."
        )


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes by the columns that hold their numbers."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _label_column(schema: pa.Schema) -> str | None:
    known = _label_names(schema)
    return find_usual(known, LABELS) or next(iter(known), None)
