"""Tables with a header line, csv or tsv. The separator and columns with usual names are detected.

Quotation marks are syntax or text, as `quoting` finds. An image in several rows has several captions. A row without an
image path, or with more or fewer fields than the header, is left out with a warning. If no caption of an image is valid
text, its pair is a bad record.
"""

import csv
import itertools
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rankclip_jax.data.images.extensions import SUFFIXES
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.columns import IMAGES, find_column, text_columns
from rankclip_jax.data.sources.quoting import Quoting, quoting_of
from rankclip_jax.data.sources.split_column import rows_of_splits, split_column
from rankclip_jax.data.sources.strings import packed, packed_column
from rankclip_jax.data.sources.table_files import read_text
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, check_broken, folder_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import short

SEPARATORS = ("\t", ",", ";", "|")
BLOCK = 1 << 26  # bytes parsed at a time; a longer row is an error
MAX_HEADER = 1 << 16  # bytes; Python's csv module reads fields of at most 128 KB
HEAD, SHAPES = 1 << 16, 50  # bytes and rows at the beginning, which show what paths of images look like
ADVICE = "Repair the file; a caption that contains a separator, quote or newline must be quoted."
# pyarrow reports rows with another number of fields as text: bytes that are not UTF-8 are private characters meanwhile.
PRIVATE = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
BYTES = {private: byte for byte, private in PRIVATE.items()}


def open_pairs(files: Sequence[str], options: PairOptions) -> TablePairs:
    """Read tables; `UserError` if one is missing or empty, lacks a column, or has too many unreadable rows."""
    folder = folder_of(files, options)
    tables = [_read(file, options) for file in files]
    count = sum(len(table) for table in tables)
    columns = [[chunk for table in tables for chunk in table.column(i).chunks] for i in range(tables[0].num_columns)]
    del tables
    images, *captions = [packed_column(pa.chunked_array(chunks, pa.large_binary())) for chunks in columns]
    del columns
    own = np.arange(count)
    return TablePairs(Rows(images, *(Texts(values, own) for values in captions)), folder)


def separator_of(header: str) -> str:
    """The separator that splits the header line into the most fields."""
    return max(SEPARATORS, key=lambda separator: len(_fields(header, separator)))


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _read(file: str, options: PairOptions) -> pa.Table:
    """The columns of images and captions, without unreadable rows."""
    data = _bytes(file)
    separator, names = _header(file, data)
    wanted = [find_column(names, options.image_key, IMAGES, "image_key", file), *text_columns(names, options, file)]
    splits = [name for name in [split_column(names)] if name]
    quoting = quoting_of(file, data, separator, _row_test(data, separator, names, wanted[0]))
    broken: list[str] = []
    table = _parse(file, data, (separator, quoting), names, [*wanted, *splits], broken)
    keep = rows_of_splits(table.column(splits[0]) if splits else None, options.split, file)
    table = (table if keep is None else table.filter(keep)).select(wanted)
    is_given = pc.greater(pc.binary_length(table.column(0)), 0)
    missing = len(table) - (pc.sum(is_given).as_py() or 0)
    if missing:
        broken += ["a row without an image"] * missing
        table = table.filter(is_given)
    if broken and quoting.problem:
        broken[0] = f"{quoting.problem}; {broken[0]}"
    check_broken(file, broken, len(table), ADVICE)
    if not len(table):
        raise UserError(f"{file} has a header line, but no rows: check the file.")
    return table


def _header(file: str, data: bytes) -> tuple[str, list[str]]:
    """The separator, and the names of the columns."""
    line = re.match(rb"[^\r\n]*", data)[0]
    if len(line) > MAX_HEADER:
        raise UserError(f"{file}: the first line has {len(line):,} bytes; it must be a header with column names.")
    text = line.decode("utf-8", "backslashreplace")
    separator = separator_of(text)
    names = [name.strip() for name in _fields(text, separator)]
    if not any(names) or names[0].lower() == "sep=" or any(map(_is_image_path, names)):
        raise UserError(f"{file}: the first line is {text[:80]!r}; it must be a header, such as filepath,title.")
    return separator, names


def _is_image_path(field: str) -> bool:
    return locations.is_url(field) or field.lower().partition("#")[0].endswith(SUFFIXES)


def _row_test(data: bytes, separator: str, names: list[str], image: str) -> Callable[[bytes], bool]:
    """Whether a line inside a quoted field is a row: it has all fields, and an image path like those of the table."""
    column = names.index(image)
    head = data[:HEAD].decode("utf-8", "replace").splitlines(keepends=True)
    rows = itertools.islice(csv.reader(head, delimiter=separator), 1, SHAPES)
    known = {_shape(row[column]) for row in rows if len(row) == len(names)}

    def is_row(line: bytes) -> bool:
        fields = line.decode("utf-8", "replace").split(separator)
        return len(fields) >= len(names) and _shape(fields[column]) in known

    return is_row


def _shape(path: str) -> str:
    """The extension, or "url"; for a path without one, its characters as "0" for numbers and "a" for letters."""
    path = path.strip('" ')
    if locations.is_url(path):
        return "url"
    return os.path.splitext(path)[1].lower() or re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", path))


def _parse(
    file: str, data: bytes, style: tuple[str, Quoting], names: list[str], wanted: list[str], broken: list[str]
) -> pa.Table:
    def leave_out(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(f"line {row.number}: {row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    separator, quoting = style
    is_utf8 = _is_utf8(data)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data if is_utf8 else _with_private(data)),
            # One thread, because several threads do not report line numbers. `names` have no spaces around them.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=names, skip_rows=1),
            pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoting.is_quoted else False,
                escape_char="\\" if quoting.is_escaped else False,
                newlines_in_values=quoting.is_quoted,
                invalid_row_handler=leave_out,
            ),
            pyarrow.csv.ConvertOptions(
                column_types={name: pa.large_binary() for name in wanted},
                include_columns=sorted({*wanted}),
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise UserError(
            f"cannot read {file} as a table ({short(error)}): repair it; double every quotation mark in a quoted text."
        ) from None
    return table if is_utf8 else pa.table({name: _raw(table.column(name)) for name in table.column_names})


def _is_utf8(data: bytes) -> bool:
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _with_private(data: bytes) -> bytes:
    """The data with a private character in place of each byte that is not UTF-8."""
    return data.decode("utf-8", "surrogateescape").translate(PRIVATE).encode()


def _raw(column: pa.ChunkedArray) -> pa.LargeBinaryArray:
    """The values with their own bytes in place of private characters."""
    return packed(value.decode().translate(BYTES) for value in column.to_pylist())


def _bytes(file: str) -> bytes:
    data = read_text(file)
    if not re.search(rb"\S", data):
        raise UserError(f"{file} is empty: a table needs a header line with column names.")
    return data
