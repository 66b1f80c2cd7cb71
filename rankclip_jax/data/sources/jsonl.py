"""JSON objects, one per line or in one array: an image path, and a caption or a list of captions.

An image in several objects has several captions. An item that is not a JSON object, or has no image, is left out with a
warning. If no caption of an image is valid text, its pair is a bad record.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.progress import progress
from rankclip_jax.data.sources.columns import IMAGES, find_column, find_usual, text_columns
from rankclip_jax.data.sources.split_column import rows_of_splits, split_column
from rankclip_jax.data.sources.strings import packed
from rankclip_jax.data.sources.table_files import read_text
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, check_broken, folder_of, kept
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import parse_json, parse_json_values

ADVICE = "Each item must be a JSON object with an image path and a caption."


def open_pairs(files: Sequence[str], options: PairOptions) -> TablePairs:
    """Read files; `UserError` for a missing or empty file, a first object without a field, or too many broken lines."""
    folder = folder_of(files, options)
    images: list[str] = []
    texts: list[tuple[list[Any], list[int]]] = [([], []) for _ in range(1 + bool(options.second_caption_key))]
    splits: list[str] = []
    for file in files:
        splits += _read(file, options, images, texts)
    captions = (Texts(packed(values), np.array(rows, np.int64)) for values, rows in texts)
    keep = rows_of_splits(pa.array(splits) if any(splits) else None, options.split, files[0])
    return TablePairs(kept(Rows(packed(images), *captions), keep), folder)


def _read(file: str, options: PairOptions, images: list[str], texts: list[tuple[list, list[int]]]) -> list[str]:
    """Append the image paths of `file` to `images`, its captions and their rows to `texts`; return its splits."""
    splits: list[str] = []
    keys, column = set(), None
    broken: list[str] = []
    before, names = len(images), None
    for place, item in _objects(file):
        if not isinstance(item, dict):
            broken.append(f"{place}: {item if isinstance(item, ValueError) else 'not a JSON object'}")
            continue
        if names is None:
            columns = text_columns(list(item), options, file)
            names = [find_column(list(item), options.image_key, IMAGES, "image_key", file), *columns]
        if not keys.issuperset(item):  # objects may have more fields than the first one
            keys |= item.keys()
            column = column or split_column(item)
        image, *found = (item.get(name) for name in names)
        if not isinstance(image, str) or not image:
            broken.append(f"{place}: no {names[0]!r}")
            continue
        for (values, rows), captions in zip(texts, found, strict=True):
            captions = captions if isinstance(captions, list) else [captions]
            valid = [caption for caption in captions if isinstance(caption, str)]
            values += valid
            rows += [len(images)] * len(valid)
        images.append(image)
        split = item.get(column) if column else ""
        splits.append(split if isinstance(split, str) else "")
    check_broken(file, broken, len(images) - before, ADVICE)
    if len(images) == before:
        raise UserError(f"{file} is empty: it must hold a JSON object per line, or one array of objects.")
    return splits


def _objects(file: str) -> Iterator[tuple[str, Any]]:
    """Place in the file, and value or the error of parsing it, for each line that is not blank or item of an array."""
    data = read_text(file)
    items = _items(file, data)
    if items is not None:
        yield from ((f"item {number}", item) for number, item in enumerate(items, 1))
        return
    for number, line in enumerate(progress(data.splitlines(), file, "line"), 1):
        if line.strip():
            yield f"line {number}", _value(line)


def _items(file: str, data: bytes) -> list[Any] | None:
    """The items of arrays, or objects of several lines each; None for a file with one value per line."""
    data = data.strip()
    first = _value(data.split(b"\n", 1)[0])
    if not isinstance(first, ValueError):
        return _inside(first) if b"\n" not in data else None
    try:
        values = parse_json_values(_text(data))
    except ValueError as error:
        if data.startswith(b"["):
            raise UserError(f"{file} is not valid JSON ({error}): is it complete?") from None
        return None
    return [item for value in values for item in _inside(value)]


def _inside(value: Any) -> list[Any]:
    """The items of an array, also of one that is the only list of objects in an object; any other value is an item."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or isinstance(value.get(find_usual(value, IMAGES)), str):
        return [value]
    lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    return lists[0] if len(lists) == 1 else [value]


def _value(data: bytes) -> Any:
    """A value, or the `ValueError` of parsing it."""
    try:
        return parse_json(_text(data))
    except ValueError as error:
        return error


def _text(data: bytes) -> str:
    # Text that is not UTF-8 becomes an error when its pair is read; the other pairs are used.
    return data.decode("utf-8", "surrogateescape")
