"""Formats of pairs by name, and the syntax of locations.

A format is one file here with ``open_pairs(files, options) -> PairSource``, and one line in `FORMATS`.
"""

import importlib
import re
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.caption_split import SplitCaptions
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError, lookup


class Format(NamedTuple):
    """How to find and read the files of a format.

    Attributes:
      module: file beside this one. It is imported on use, because some formats need libraries that load slowly.
      extensions: a folder stands for its files with these extensions; () if a folder stands for itself.
      has_splits: whether a location may end with "#SPLIT".
      is_named: whether a location is the name of a data set instead of files.
      has_index: whether the module has ``index(files, options, rebuild) -> str``, which builds indexes in advance.
    """

    module: str
    extensions: tuple[str, ...] = ()
    has_splits: bool = False
    is_named: bool = False
    has_index: bool = False


FORMATS: dict[str, Format] = {
    "arrayrecord": Format("array_record", (".array_record", ".arrayrecord")),
    "coco": Format("coco", has_splits=True),
    "csv": Format("delimited", (".csv", ".tsv"), has_splits=True),
    "huggingface": Format("huggingface", has_splits=True),
    "image_folder": Format("image_folder", has_splits=True),
    "jsonl": Format("jsonl", (".jsonl", ".ndjson"), has_splits=True),
    "parquet": Format("parquet", (".parquet",), has_splits=True),
    "tfds": Format("tfds", has_splits=True, is_named=True),
    "tsv": Format("delimited", (".tsv", ".csv"), has_splits=True),
    # Compressed tars are found too, and then rejected with a clear message.
    "webdataset": Format("webdataset", (".tar", ".tar.gz", ".tgz"), has_index=True),
}

WEIGHT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s+(\S.*)")
PREFIX = re.compile(r"([A-Za-z_]{2,}):(?!//|:)(.*)")


class Location(NamedTuple):
    """One term of ``[WEIGHT ][FORMAT:]PATH[#SPLIT] | ...``."""

    weight: float | None
    format: str
    path: str
    split: str


def parse_locations(text: str, default_format: str, key: str, root: str = "") -> list[Location]:
    """Parse the value of a config key: terms joined by "|". A term without a format has the default format.

    A number before a term is its weight, unless a path relative to `root` begins with it: "2014 photos/*.tar". What
    follows "#" is a split, unless a path has exactly this name or the term ends like a file of its format.

    Raises:
      UserError: a term is empty, its format unknown, its weight not positive, or only some terms have weights.
    """
    if not text.strip():
        return []
    found = [_parse(term.strip(), default_format, key, root) for term in text.split("|")]
    weighted = sum(location.weight is not None for location in found)
    if 0 < weighted < len(found):
        raise UserError(f"{key}: {weighted} of {len(found)} locations have a weight: give all of them one, or none.")
    return found


def _parse(term: str, default_format: str, key: str, root: str) -> Location:
    weight = None
    if (found := WEIGHT.fullmatch(term)) and not locations.is_path(term, root):
        weight, term = float(found[1]), found[2]
        if not 0 < weight < float("inf"):
            raise UserError(f"{key}: weight {found[1]} of {term!r} must be a positive number.")
    name = default_format
    if found := PREFIX.fullmatch(term):
        name, term = found[1], found[2].strip()
    format_ = lookup(FORMATS, name, f"format in {key}")
    split = ""
    is_file = term.lower().endswith(format_.extensions) or locations.is_local(term, root)
    if format_.has_splits and "#" in term and not is_file:
        term, _, split = term.rpartition("#")
    if not term:
        raise UserError(f"{key} has a term without a location: write [WEIGHT ][FORMAT:]PATH | ...")
    return Location(weight, name, term, split)


def module_of(location: Location) -> ModuleType:
    """The module that reads the format of a location."""
    return importlib.import_module(f"{__package__}.{FORMATS[location.format].module}")


def files_of(location: Location, root: str) -> list[str]:
    """The files of a location relative to `root`; for a named data set, its name."""
    format_ = FORMATS[location.format]
    return [location.path] if format_.is_named else locations.expand(location.path, root, format_.extensions)


def open_location(location: Location, options: PairOptions) -> PairSource:
    """Open the pairs of one location; `UserError` if they cannot be opened."""
    options, files = replace(options, split=location.split), files_of(location, options.root)
    locations.check_files(files)
    pairs = module_of(location).open_pairs(files, options)
    # Class names are one caption each.
    return SplitCaptions(pairs, options.caption_split) if options.caption_split and not pairs.class_names else pairs
