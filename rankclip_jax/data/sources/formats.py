"""Formats of pairs by name, and how a location names one.

A new format is one file here with ``open_pairs(files, options) -> PairSource``, and one line in `FORMATS`.
"""

import importlib
import re
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError, lookup


class Format(NamedTuple):
    """How the files of a format are found.

    Attributes:
      module: file beside this one; imported when it is used, because some need libraries that take a second.
      extensions: of the files that a folder stands for; empty where it stands for itself.
      has_splits: whether a location ends with "#SPLIT".
      is_named: whether a location is the name of a data set rather than of files.
    """

    module: str
    extensions: tuple[str, ...] = ()
    has_splits: bool = False
    is_named: bool = False


FORMATS: dict[str, Format] = {
    "arrayrecord": Format("array_record", (".array_record", ".arrayrecord")),
    "coco": Format("coco", has_splits=True),
    "csv": Format("delimited", (".csv", ".tsv")),
    "huggingface": Format("huggingface", has_splits=True),
    "image_folder": Format("image_folder"),
    "jsonl": Format("jsonl", (".jsonl", ".ndjson")),
    "parquet": Format("parquet", (".parquet",)),
    "tfds": Format("tfds", has_splits=True, is_named=True),
    "tsv": Format("delimited", (".tsv", ".csv")),
    "webdataset": Format("webdataset", (".tar", ".tar.gz", ".tgz")),  # compressed ones are refused by name
}

WEIGHT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s+(\S.*)")
PREFIX = re.compile(r"([A-Za-z_]{2,}):(?!//|:)(.*)")


class Place(NamedTuple):
    """One term of ``[WEIGHT ][FORMAT:]LOCATION[#SPLIT] | ...``."""

    weight: float | None
    format: str
    location: str
    split: str


def parse_places(text: str, default_format: str, key: str) -> list[Place]:
    """Read where pairs are.

    Args:
      text: terms joined by "|".
      default_format: for those that name none.
      key: of the config, for messages.

    Raises:
      UserError: a term is empty, its format unknown, its weight not positive, or only some have weights.
    """
    places = [_parse(term.strip(), default_format, key) for term in text.split("|")]
    weighted = [place for place in places if place.weight is not None]
    if weighted and len(weighted) < len(places):
        raise UserError(
            f"{key}: {len(weighted)} of {len(places)} locations have a weight: give all of them one, or none."
        )
    return places


def _parse(term: str, default_format: str, key: str) -> Place:
    weight = None
    if found := WEIGHT.fullmatch(term):
        weight, term = float(found[1]), found[2]
        if not 0 < weight < float("inf"):
            raise UserError(f"{key}: weight {found[1]} of {term!r} must be a positive number.")
    name = default_format
    if found := PREFIX.fullmatch(term):
        name, term = found[1], found[2].strip()
    format_ = lookup(FORMATS, name, f"format in {key}")
    split = ""
    if format_.has_splits and "#" in term:
        term, _, split = term.rpartition("#")
    if not term:
        raise UserError(f"{key} has a term without a location: write [WEIGHT ][FORMAT:]LOCATION | ...")
    return Place(weight, name, term, split)


def module_of(place: Place) -> ModuleType:
    """The file that reads the format of a place."""
    return importlib.import_module(f"{__package__}.{FORMATS[place.format].module}")


def open_place(place: Place, options: PairOptions) -> PairSource:
    """Open the pairs at one place; `UserError` if they cannot be."""
    format_ = FORMATS[place.format]
    module = module_of(place)
    options = replace(options, split=place.split)
    if format_.is_named:
        return module.open_pairs([place.location], options)
    return module.open_pairs(locations.expand(place.location, options.root, format_.extensions), options)
