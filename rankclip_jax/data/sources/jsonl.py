"""One JSON object per line: an image path, and a caption or a list of captions.

An image in several lines has several captions. A line that is not a JSON object, or has no image, is left out with a
warning. If no caption of an image is valid text, its pair is a bad record.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.progress import progress
from rankclip_jax.data.sources.columns import IMAGES, find_column, text_columns
from rankclip_jax.data.sources.strings import packed
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, check_broken, folder_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError


def open_pairs(files: Sequence[str], options: PairOptions) -> TablePairs:
    """Read files; `UserError` for a missing or empty file, a first object without a field, or too many broken lines."""
    folder = folder_of(files, options)
    images: list[str] = []
    texts: list[tuple[list[Any], list[int]]] = [([], []) for _ in range(1 + bool(options.second_caption_key))]
    for file in files:
        _read(file, options, images, texts)
    captions = (Texts(packed(values), np.array(rows, np.int64)) for values, rows in texts)
    return TablePairs(Rows(packed(images), *captions), folder)


def _read(file: str, options: PairOptions, images: list[str], texts: list[tuple[list, list[int]]]) -> None:
    """Append the image paths of `file` to `images`, its captions and their rows to `texts`."""
    broken: list[str] = []
    before, names = len(images), None
    for number, item in _objects(file):
        if not isinstance(item, dict):
            broken.append(f"line {number}: {item if isinstance(item, ValueError) else 'not a JSON object'}")
            continue
        if names is None:
            columns = text_columns(list(item), options, file)
            names = [find_column(list(item), options.image_key, IMAGES, "image_key", file), *columns]
        image, *found = (item.get(name) for name in names)
        if not isinstance(image, str) or not image:
            broken.append(f"line {number}: no {names[0]!r}")
            continue
        for (values, rows), captions in zip(texts, found, strict=True):
            captions = captions if isinstance(captions, list) else [captions]
            kept = [caption for caption in captions if isinstance(caption, str)]
            values += kept
            rows += [len(images)] * len(kept)
        images.append(image)
    check_broken(file, broken, len(images) - before)
    if len(images) == before:
        raise UserError(f"{file} is empty: each line must be a JSON object.")


def _objects(file: str) -> Iterator[tuple[int, Any]]:
    """(line number, value or the error of parsing it) for each line that is not blank."""
    try:
        lines = locations.read(file).splitlines()
    except OSError as error:
        raise UserError(f"cannot read the table {file} ({error.strerror or error}): check the file.") from None
    for number, line in enumerate(progress(lines, file, "line"), 1):
        if not line.strip():
            continue
        try:
            # Text that is not UTF-8 becomes an error when its pair is read; the other lines are used.
            yield number, json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            yield number, error
