"""Folders of images with a table ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` beside the images.

This is the layout of `imagefolder` in Hugging Face `datasets`. The column "file_name" is relative to the table.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rankclip_jax.data.mixture import Located, Mixture, Subset
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources import delimited, jsonl, parquet
from rankclip_jax.data.sources.split_column import ALL
from rankclip_jax.data.storage.folders import walk

LOG = logging.getLogger(__name__)
READERS = {"metadata.jsonl": jsonl, "metadata.csv": delimited, "metadata.parquet": parquet}
METADATA = tuple(READERS)
FILE_NAME = "file_name"


def tables_in(folder: str) -> list[str]:
    """Paths of the tables below `folder`; of several tables in one folder, the first in `METADATA`."""
    found = []
    for base, names in walk(folder):
        known = {name.lower(): name for name in reversed(names)}
        found += [os.path.join(base, known[name]) for name in METADATA if name in known][:1]
    return sorted(found)


def open_tables(tables: Sequence[str], folders: Sequence[str], options: PairOptions, num_images: int) -> PairSource:
    """The pairs of the tables. Keys are relative to the folder in `folders` that holds the table.

    Args:
      tables: result of `tables_in` for each folder.
      folders: folders of images.
      options: names of columns.
      num_images: number of images below `folders`, to count those that no table names.
    """
    options = replace(options, image_key=options.image_key or FILE_NAME, image_root="", root="")
    options = replace(options, split=ALL if options.split else "")  # the folder of a split is chosen
    parts = []
    for table in tables:
        pairs = READERS[os.path.basename(table).lower()].open_pairs([table], options)
        folder = next(folder for folder in folders if table.startswith(os.path.join(folder, "")))
        inside = os.path.relpath(os.path.dirname(table), folder)
        parts.append(pairs if inside == "." else Located(pairs, inside + os.sep))
    pairs = parts[0] if len(parts) == 1 else Mixture(parts)
    if len(pairs) < num_images:
        LOG.warning("%s: %d of %d images are in no table and left out", tables[0], num_images - len(pairs), num_images)
    return pairs


def below(pairs: PairSource, folder: str) -> PairSource:
    """The pairs whose keys are in `folder`."""
    prefix = (f"{folder}/", f"{folder}\\")
    return Subset(pairs, np.array([i for i in range(len(pairs)) if pairs.key(i).startswith(prefix)], np.int64))
