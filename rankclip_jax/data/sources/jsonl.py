"""One JSON object a line: an image path, and a caption or a list of captions.

An image in several lines has several captions. A line that is no JSON object, or has no image, is left out
with a warning; a caption that is null, empty or no text makes its pair a bad record.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.columns import IMAGES, find_column, text_columns
from rankclip_jax.data.sources.strings import Strings
from rankclip_jax.data.sources.tables import Rows, TablePairs, check_broken, folder_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes


def open_pairs(files: Sequence[str], options: PairOptions) -> TablePairs:
    """Read files of JSON lines.

    Raises:
      UserError: a file is missing or empty, its first object has no such field, or too many lines are broken.
    """
    folder = folder_of(files, options)
    images: list[str] = []
    texts: list[tuple[list[Any], list[int]]] = [([], []) for _ in range(1 + bool(options.second_caption_key))]
    for file in files:
        _read(file, options, images, texts)
    columns = ((Strings.of(values), np.array(rows, np.int64)) for values, rows in texts)
    return TablePairs(Rows(Strings.of(images), *columns), folder)


def _read(file: str, options: PairOptions, images: list[str], texts: list[tuple[list, list[int]]]) -> None:
    """Append what is in `file`: image paths, and texts with the rows they belong to."""
    broken: list[str] = []
    before, names = len(images), None
    for number, item in _objects(file):
        if not isinstance(item, dict):
            broken.append(f"line {number}: {item if isinstance(item, ValueError) else 'no JSON object'}")
            continue
        if names is None:
            columns = text_columns(list(item), options, file)
            names = [find_column(list(item), options.image_key, IMAGES, "image_key", file), *columns]
        image, *found = (item.get(name) for name in names)
        if not isinstance(image, str) or not image:
            broken.append(f"line {number}: no {names[0]!r}")
            continue
        for (values, rows), captions in zip(texts, found, strict=True):
            kept = [caption for caption in _listed(captions) if isinstance(caption, str)]
            values += kept
            rows += [len(images)] * len(kept)
        images.append(image)
    check_broken(file, broken, len(images) - before)
    if len(images) == before:
        raise UserError(f"{file} is empty: a JSON object is needed on each line.")


def _listed(captions: Any) -> list:
    return captions if isinstance(captions, list) else [captions]


def _objects(file: str) -> Iterator[tuple[int, Any]]:
    """(line number, its value, or the error that says why it has none) for each line that is not blank."""
    try:
        lines = locations.read(file).splitlines()
    except OSError as error:
        raise UserError(f"cannot read the table {file} ({error.strerror or error}): check the file.") from None
    hidden = None if processes.is_main() and len(lines) > 1_000_000 else True
    for number, line in enumerate(tqdm(lines, desc=file, unit="line", leave=False, disable=hidden), 1):
        if not line.strip():
            continue
        try:
            # A caption that is not UTF-8 must not cost its neighbours: it is found out when the pair is read.
            yield number, json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            yield number, error
