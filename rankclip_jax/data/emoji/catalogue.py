"""Reads the table of concepts and the sprite sheets of the embedded data set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rankclip_jax.data.emoji import CELL, COLUMNS
from rankclip_jax.errors import UserError

TABLE_COLUMNS = ("cell", "hexcode", "emoji", "label", "keywords", "group", "subgroup", "styles")


@dataclass(frozen=True)
class Concept:
    """One emoji.

    Attributes:
      cell: index of the concept and of its cell in the sheets.
      hexcode: code points, e.g. ``1F9D1-200D-1F33E``.
      emoji: the characters.
      label: English name from Unicode CLDR.
      keywords: English keywords from Unicode CLDR, in alphabetical order.
      group: one of 8 groups, e.g. ``food-drink``.
      subgroup: one of 95 subgroups, e.g. ``food-fruit``.
      styles: styles with a drawing of the concept; its cell is blank in the other sheets.
    """

    cell: int
    hexcode: str
    emoji: str
    label: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    styles: tuple[str, ...]


def read_concepts(folder: Path) -> tuple[Concept, ...]:
    """Read ``concepts.tsv``; `UserError` for a missing file or column, or an invalid row."""
    path = folder / "concepts.tsv"
    try:
        header, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): put concepts.tsv there, or unset config.data.root.") from error
    columns = header.split("\t")
    missing = [name for name in TABLE_COLUMNS if name not in columns]
    if missing:
        raise UserError(f"{path} lacks column {missing[0]!r}; found: {', '.join(columns)}.")
    return tuple(_concept(path, cell, columns, line) for cell, line in enumerate(lines))


def _concept(path: Path, cell: int, columns: list[str], line: str) -> Concept:
    row = dict(zip(columns, line.split("\t"), strict=False))
    if line.count("\t") != len(columns) - 1 or row["cell"] != str(cell) or not row["label"]:
        raise UserError(
            f"{path} line {cell + 2}: expected cell {cell}, a label and {len(columns)} columns, found {line!r}."
        )
    lists = {key: tuple(filter(None, row[key].split(mark))) for key, mark in (("keywords", "|"), ("styles", ","))}
    texts = {key: row[key] for key in ("hexcode", "emoji", "label", "group", "subgroup")}
    return Concept(cell=cell, **texts, **lists)


def read_sheet(folder: Path, style: str, num_cells: int) -> np.ndarray:
    """Decode ``<style>.webp`` into uint8 [rows * COLUMNS, CELL, CELL, 3], at least `num_cells` cells.

    Raises:
      UserError: the sheet is missing, unreadable or too small.
    """
    path = folder / f"{style}.webp"
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
    except OSError as error:
        raise UserError(f"cannot read the sprite sheet {path} ({error}): restore or rebuild it.") from error
    height, width = pixels.shape[:2]
    rows = -(-num_cells // COLUMNS)
    if width != COLUMNS * CELL or height % CELL or height < rows * CELL:
        raise UserError(f"{path} is {width}x{height} pixels; {num_cells} concepts need {COLUMNS * CELL}x{rows * CELL}.")
    grid = pixels.reshape(height // CELL, CELL, COLUMNS, CELL, 3)
    return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, CELL, CELL, 3)
