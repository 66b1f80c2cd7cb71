"""Pairs of image paths and captions: what every table of paths comes down to."""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.paths import join
from rankclip_jax.data.sources.strings import StringLists, Strings
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

LOG = logging.getLogger(__name__)
MAX_BROKEN = 0.01  # share of rows that cannot be read at all above which a table is refused


@dataclass(frozen=True)
class Rows:
    """The rows of one or several tables.

    Attributes:
      images: paths or URLs, n rows.
      captions: strings, and the row of each.
      second_captions: the same; None where there are none.
    """

    images: Strings
    captions: tuple[Strings, np.ndarray]
    second_captions: tuple[Strings, np.ndarray] | None = None


class TablePairs:
    """One pair for each image; rows of the same image are its several captions. See `PairSource`."""

    def __init__(self, rows: Rows, folder: str):
        self._images, image_of_row = _distinct(rows.images)
        self._folder = folder
        count = len(self._images)
        (captions, owners), second = rows.captions, rows.second_captions
        self._captions = StringLists(captions, image_of_row[owners], count)
        self._second = StringLists(second[0], image_of_row[second[1]], count) if second else None
        if second:
            self.second_captions = self._second_captions

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return self._images[index].decode("utf-8", "backslashreplace")

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._captions[index])

    def _second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._second[index])

    def image_bytes(self, index: int) -> bytes:
        return locations.read(join(self._folder, self._images.text(index)))

    def find(self, keys: Collection[str]) -> np.ndarray:
        wanted = pa.array([name for key in keys for name in _as_bytes(key)], pa.large_binary())
        return np.flatnonzero(pc.is_in(self._images.arrow(), wanted).to_numpy(zero_copy_only=False))

    def digest(self) -> str:
        sha = hashlib.sha256()
        for part in (self._images, self._captions, self._second):
            if part is not None:
                part.update(sha)
        return sha.hexdigest()


def _distinct(names: Strings) -> tuple[Strings, np.ndarray]:
    """The distinct names in the order of their first rows, and int [n] which of them each row has."""
    encoded = names.arrow().dictionary_encode()
    of_row = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(encoded.dictionary) < len(names):
        names = Strings.of_arrow(encoded.dictionary)
    del encoded
    pa.default_memory_pool().release_unused()  # what it was read and told apart with is twice its size
    return names, of_row


def _as_bytes(key: str) -> set[bytes]:
    """What a name may be in the file whose `TablePairs.key` is this."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), key.encode())
    return {key.encode(), raw}


def folder_of(files: Sequence[str], options: PairOptions) -> str:
    """Where the image paths in these tables begin.

    Raises:
      UserError: the tables lie in several folders, and none is named.
    """
    if options.image_root:
        return options.image_root
    folders = sorted({os.path.dirname(file) for file in files})
    if len(folders) > 1:
        raise UserError(
            f"tables lie in {len(folders)} folders, {folders[0]} and others: say what their image paths are "
            "relative to in config.data.image_root."
        )
    return folders[0]


def check_broken(where: str, broken: Sequence[str], rows: int) -> None:
    """Warn of rows that cannot be read at all, which no record stands for.

    Args:
      where: file.
      broken: what is wrong with each, with its line.
      rows: sound ones.

    Raises:
      UserError: they are too many.
    """
    if not broken:
        return
    first = "; ".join(broken[:3])
    if len(broken) > MAX_BROKEN * (rows + len(broken)):
        raise UserError(
            f"{where}: {len(broken)} of {rows + len(broken)} rows cannot be read. First: {first}. Mend the file; "
            "a caption with a separator, quote or newline in it must be quoted."
        )
    LOG.warning("%s: %d of %d rows left out: %s", where, len(broken), rows + len(broken), first)
