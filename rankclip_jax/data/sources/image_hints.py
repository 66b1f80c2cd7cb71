"""Finds captions that a folder of classes seems to hold elsewhere: in a table, or in text files in other folders."""

import os
import re
from collections.abc import Sequence

from rankclip_jax.data.sources.image_files import USUAL, ImageFile
from rankclip_jax.data.storage import locations
from rankclip_jax.data.storage.folders import walk
from rankclip_jax.files.text_files import as_utf8

TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
HEAD = 1 << 16  # bytes of a table that are read
MAX_TRIED = 100  # files
WORD = re.compile(r"[^\s\"',;|/\\]+")


def other_captions(folders: Sequence[str], images: Sequence[ImageFile]) -> str:
    """Path of a file below `folders` that may hold captions of `images`, which have none beside them; "" if none."""
    names = {os.path.basename(image.name) for image in images}
    stems = {os.path.splitext(name)[0] for name in names}
    tried = 0
    for folder in folders:
        for base, files in walk(folder):
            for file in files:
                stem, ending = os.path.splitext(file)
                if ending.lower().lstrip(".") in USUAL and stem in stems:
                    return os.path.join(base, file)
                if ending.lower() in TABLES and tried < MAX_TRIED:
                    tried += 1
                    if _names_images(os.path.join(base, file), names):
                        return os.path.join(base, file)
    return ""


def _names_images(path: str, names: set[str]) -> bool:
    try:
        head = as_utf8(locations.read_range(path, 0, min(HEAD, locations.size(path)))).decode(errors="replace")
    except (OSError, EOFError):
        return False
    return any(word in names for word in WORD.findall(head))
