"""Tables with a header line, csv or tsv. The separator and columns with usual names are detected.

An image in several rows has several captions. A row without an image path, or with more or fewer fields than the
header, is left out with a warning. If no caption of an image is valid text, its pair is a bad record.
"""

import csv
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.columns import IMAGES, find_column, text_columns
from rankclip_jax.data.sources.strings import packed_column
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, check_broken, folder_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

SEPARATORS = ("\t", ",", ";", "|")
BLOCK = 1 << 26  # bytes parsed at a time; a longer row is an error


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
    line = re.match(rb"(?:\xef\xbb\xbf)?([^\r\n]*)", data)[1].decode("utf-8", "backslashreplace")
    separator = separator_of(line)
    names = [name.strip() for name in _fields(line, separator)]
    wanted = [find_column(names, options.image_key, IMAGES, "image_key", file), *text_columns(names, options, file)]
    broken: list[str] = []
    table = _parse(file, data, separator, names, wanted, broken).select(wanted)
    is_given = pc.greater(pc.binary_length(table.column(0)), 0)
    missing = len(table) - (pc.sum(is_given).as_py() or 0)
    if missing:
        broken += ["a row without an image"] * missing
        table = table.filter(is_given)
    check_broken(file, broken, len(table))
    if not len(table):
        raise UserError(f"{file} has a header line, but no rows: check the file.")
    return table


def _parse(file: str, data: bytes, separator: str, names: list[str], wanted: list[str], broken: list[str]) -> pa.Table:
    def leave_out(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(f"line {row.number}: {row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(data),
            # One thread, because several threads do not report line numbers. `names` have no spaces around them.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=names, skip_rows=1),
            pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=leave_out),
            pyarrow.csv.ConvertOptions(
                column_types={name: pa.large_binary() for name in wanted},
                include_columns=sorted({*wanted}),
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise UserError(
            f"cannot read {file} as a table ({error}): repair it; double every quote in a caption."
        ) from None


def _bytes(file: str) -> bytes:
    try:
        data = locations.read(file)
    except OSError as error:
        raise UserError(f"cannot read the table {file} ({error.strerror or error}): check the file.") from None
    if not re.search(rb"\S", data):
        raise UserError(f"{file} is empty: a table needs a header line with column names.")
    return data
