"""Finds the configurations, splits and shards of a data set by the names of its files, as Hugging Face `datasets` and
Spark write them.

    data/train-00000-of-00002-8b7d2d5f1a7a4b0c.parquet     split "train"
    en/test-00000-of-00001.parquet                         configuration "en", split "test"
    part-00003-a5835434-...-c000.snappy.parquet            the only split, "train"
    imagefolder-validation-00001-of-00002.arrow            configuration "imagefolder", split "validation"
"""

import logging
import os
import re
from collections.abc import Sequence
from itertools import takewhile

from rankclip_jax.data.storage.split_names import is_split, known_split
from rankclip_jax.errors import UserError, did_you_mean

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
HASH = r"(?=[a-f]*\d)[0-9a-f]{8,64}"
COMPRESSION = "snappy|gz|gzip|zstd|zst|lz4|brotli|lzo"
# What follows the name of a split: numbers of shards, hashes, compression.
NUMBERING = re.compile(rf"(?:^|[-_.])(?:{UUID}|{HASH}|\d+|of|c\d+|{COMPRESSION})$", re.IGNORECASE)
TOTAL = re.compile(r"(\d{5})[-_]of[-_](\d{5})")
VERSION = re.compile(r"\d+(\.\d+)*")
GENERIC = ("", "part", "data", "shard", "chunk", "file", "default", "dataset")
CACHE = re.compile(r"(cache-[0-9a-f]+)(_\d+_of_\d+)?")  # `datasets` keeps results of `map` in these

LOG = logging.getLogger(__name__)

Shards = dict[tuple[str, str], list[str]]  # files by (configuration, split)


def find_shards(files: Sequence[str], folder: str) -> Shards:
    """Group the files below `folder`, in their order. A configuration has a name if there are several."""
    caches = [file for file in files if CACHE.fullmatch(_stem(file))]
    found: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for file in files if len(caches) == len(files) else [file for file in files if file not in set(caches)]:
        found.setdefault(_config_and_split(os.path.relpath(file, folder)), []).append(file)
    levels = zip(*(config for config, _ in found), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return {("/".join(config[common:]), split): shards for (config, split), shards in found.items()}


def choose_shards(found: Shards, wanted: str, folder: str) -> list[str]:
    """The files of the split `wanted`: "SPLIT", "CONFIGURATION/SPLIT", "CONFIGURATION", or "" if there is only one.

    Raises:
      UserError: there is none or several; the message lists all.
    """
    names = {key: "/".join(filter(None, key)) for key in found}
    chosen = [key for key in found if wanted in ("", names[key], *key)]
    if len(chosen) == 1:
        _warn_of_missing(found[chosen[0]], folder)
        return found[chosen[0]]
    known = ", ".join(names.values())
    if wanted and not chosen:
        raise UserError(f"unknown split of {folder} {wanted!r}.{did_you_mean(wanted, names.values())} Known: {known}.")
    kind = "configurations" if len({config for config, _ in found}) > 1 else "splits"
    raise UserError(f"{folder} holds several {kind}: name one, as in {folder}#{names[chosen[0]]}. Known: {known}.")


def _warn_of_missing(files: Sequence[str], folder: str) -> None:
    """Log the number of missing shards, by the totals in the names of the others."""
    numbers: dict[int, set[int]] = {}
    for match in filter(None, map(TOTAL.search, map(os.path.basename, files))):
        numbers.setdefault(int(match[2]), set()).add(int(match[1]))
    if missing := sum(total - len(present) for total, present in numbers.items()):
        LOG.warning("%s: %d shards of %d are missing: is the download complete?", folder, missing, sum(numbers))
    if len(numbers) > 1:
        LOG.warning("%s: shards of several versions, of %s files: delete the old ones", folder, sorted(numbers))


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _config_and_split(path: str) -> tuple[tuple[str, ...], str]:
    """Configuration, as parts of a name, and split of a file, by its path in the folder of the data set."""
    folders = [part for part in os.path.dirname(path).split(os.sep) if not _is_generic(part)]
    config = tuple(part for part in folders if not is_split(part))
    of_folders = [part for part in folders if is_split(part)]
    series = _stem(path)
    if cache := CACHE.fullmatch(series):
        return config, cache[1]
    while shorter := NUMBERING.search(series):
        series = series[: shorter.start()]
    pieces = [piece for piece in series.split("-") if piece.lower() not in GENERIC]
    words = [piece for piece in pieces if known_split(piece)]
    if not pieces or (of_folders and not words):
        return (*config, *pieces), (of_folders or ["train"])[-1]
    split = (words or pieces)[-1]
    pieces.remove(split)
    return (*config, *pieces), split


def _is_generic(part: str) -> bool:
    return part.lower() in GENERIC or VERSION.fullmatch(part) is not None
