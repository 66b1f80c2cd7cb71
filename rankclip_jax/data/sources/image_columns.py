"""Columns of images in tables; one is chosen if several have usual names."""

from typing import Any

import pyarrow as pa

from rankclip_jax.data.images.decode import open_image
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.columns import IMAGES, find_column, find_usual
from rankclip_jax.data.sources.paths import read_image
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

TRIED = 5  # rows


class ImageColumn:
    """A column of images in `cells.Cells`: encoded bytes, or paths relative to `folder`."""

    def __init__(self, cells: Any, column: str, folder: str = ""):
        self.cells, self._column, self._folder = cells, column, folder

    def path(self, index: int) -> str:
        """The path of the image of a row; "" if the table holds the image itself."""
        value = self._value(index)
        return value if isinstance(value, str) else ""

    def _value(self, index: int) -> bytes | str:
        value = self.cells.large_cell(self._column, index)
        if isinstance(value, dict):
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise ValueError("the image is missing")
        return value

    def read(self, index: int) -> bytes:
        """The encoded image of a row; `ValueError` if its value is null."""
        value = self._value(index)
        return read_image(self._folder, value) if isinstance(value, str) else value


def is_image(field: pa.Field) -> bool:
    """Whether a column can hold images: bytes, paths, or structs of both."""
    kind = value_type(field.type)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    is_struct = pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return is_bytes or is_struct or is_text(kind)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column, which may be a dictionary of values."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are strings."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def choose_image_column(cells: Any, folder: str, options: PairOptions, where: str) -> str:
    """The column of `cells.ArrowCells` that `options` names, or the first with a usual name whose images can be read.

    For example, a table may hold images, and their paths on the machine where it was written.

    Raises:
      UserError: there is no such column, or several with usual names and none of them works.
    """
    names = cells.schema.names
    if options.image_key:
        return find_column(names, options.image_key, (), "image_key", where)
    usual = dict.fromkeys(filter(None, (find_usual(names, (name,)) for name in IMAGES)))
    usual = [name for name in usual if is_image(cells.schema.field(name))]
    if len(usual) < 2:
        return find_column(usual or names, "", IMAGES, "image_key", where)
    states = {name: _state(ImageColumn(cells, name, folder), min(TRIED, len(cells))) for name in usual}
    for wanted in ("", "URL"):  # a URL is not requested: a column with the images themselves is better
        if working := [name for name, state in states.items() if state == wanted]:
            return working[0]
    tried = "; ".join(f"{name!r} ({state})" for name, state in states.items())
    raise UserError(f"{where}: no image can be read from any of the columns {tried}: set config.data.image_key to one.")


def _state(column: ImageColumn, rows: int) -> str:
    """ "" if the image of one of the first rows can be read, "URL" if it is a URL, or the problem of the first row."""
    problems = []
    for row in range(rows):
        try:
            if locations.is_url(column.path(row)):
                return "URL"
            open_image(column.read(row))
            return ""
        except Exception as error:  # readers and Pillow raise many types
            problems.append(f"{type(error).__name__}: {error}"[:120])
    return problems[0]
