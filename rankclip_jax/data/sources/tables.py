"""Pairs of image paths and captions: the common part of all tables of paths."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.paths import image_folder, read_image
from rankclip_jax.data.sources.strings import grouped, packed, packed_column, text_of, update
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import redacted

LOG = logging.getLogger(__name__)
SECRET = "://.*[@=]"  # a URL that may hold a secret
HEAD = 100  # rows whose image paths are checked
# A data URI, or 256 letters of base64 that begin like a JPEG, PNG, WebP, GIF, BMP or TIFF file: no path has these.
BASE64 = re.compile(rb"data:[\w/+.-]*;base64,|(?=/9j/|iVBORw|UklGR|R0lGOD|Qk|SUkq|TU0A)[A-Za-z0-9+/\s]{256}")
MAX_BROKEN = 0.01  # a table with a larger fraction of unreadable rows is rejected


@dataclass(frozen=True)
class Texts:
    """The m captions of n rows; `rows`, int [m], is the row of each caption."""

    values: pa.LargeBinaryArray
    rows: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The n rows of one or several tables: paths or URLs of n images, and their captions."""

    images: pa.LargeBinaryArray
    captions: Texts
    second_captions: Texts | None = None


def kept(rows: Rows, keep: np.ndarray | None) -> Rows:
    """The rows where `keep`, bool [n], is true; all for None."""
    if keep is None:
        return rows
    number = np.cumsum(keep) - 1

    def texts(own: Texts) -> Texts:
        is_kept = keep[own.rows]
        return Texts(own.values.filter(pa.array(is_kept)), number[own.rows[is_kept]])

    second = texts(rows.second_captions) if rows.second_captions else None
    return Rows(rows.images.filter(pa.array(keep)), texts(rows.captions), second)


class TablePairs(PairSource):
    """One pair for each image. Several rows of one image give several captions."""

    def __init__(self, rows: Rows, folder: str):
        check_paths(rows.images)
        self._images, image_of_row = _distinct(_without_dots(rows.images))
        self._names = _names_of(self._images)
        self._folder = folder
        # The captions, and the second captions if there are any: each a list of texts per image.
        self._lists = [
            grouped(texts.values, image_of_row[texts.rows], len(self._images))
            for texts in (rows.captions, rows.second_captions)
            if texts is not None
        ]
        self.has_second_captions = len(self._lists) > 1

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return self._names[index].as_py().decode("utf-8", "backslashreplace")

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._lists[0][index].as_py())

    def second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._lists[1][index].as_py()) if self.has_second_captions else ()

    def image_bytes(self, index: int) -> bytes:
        return read_image(self._folder, text_of(self._images, index))

    def find(self, keys: Collection[str]) -> np.ndarray:
        wanted = pa.array([name for key in keys for name in _as_bytes(key)], pa.large_binary())
        return np.flatnonzero(pc.is_in(self._names, wanted).to_numpy(zero_copy_only=False))

    def digest(self) -> str:
        """Covers image paths, without the secrets of URLs, and captions."""
        sha = hashlib.sha256()
        for strings in (self._names, *self._lists):
            update(sha, strings)
        return sha.hexdigest()


def check_paths(images: pa.LargeBinaryArray) -> None:
    """Check that the first values are paths: `UserError` if one is an image as base64 text."""
    for value in images[:HEAD].to_pylist():
        if BASE64.match(value):
            raise UserError(
                f"the image column holds base64 text ({value[:16].decode()}...), not paths: decode it once, into image "
                "files or into a Parquet column of bytes."
            )


def _without_dots(paths: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """The paths without ``./`` before them: ``./1.jpg`` and ``1.jpg`` are one image."""
    if not pc.any(pc.starts_with(paths, "./")).as_py():
        return paths
    return packed_column(pc.replace_substring_regex(paths, r"^(?:\./+)+", ""))


def _distinct(names: pa.LargeBinaryArray) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """The distinct names in the order of their first rows, and int [n]: the index of each row's name among them."""
    encoded = names.dictionary_encode()
    of_row = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(encoded.dictionary) < len(names):
        names = packed_column(encoded.dictionary)
    del encoded
    pa.default_memory_pool().release_unused()  # reading and encoding took twice the memory of the names
    return names, of_row


def _names_of(images: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """Names of images for keys: their paths, without the secrets of URLs; equal names get their number."""
    if not pc.any(pc.match_substring_regex(images, SECRET)).as_py():
        return images
    names = [redacted(text_of(images, index)) for index in range(len(images))]
    counts = Counter(names)
    return packed(f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names))


def _as_bytes(key: str) -> set[bytes]:
    """The names that the file may have for a key of `TablePairs`."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), key.encode())
    return {key.encode(), raw}


def folder_of(files: Sequence[str], options: PairOptions) -> str:
    """The folder that image paths are relative to; `UserError` for tables in several folders without `image_root`."""
    folders = sorted({os.path.dirname(file) for file in files})
    folder = image_folder(options, folders[0] if len(folders) == 1 else "")
    if not folder:
        raise UserError(
            f"the tables are in {len(folders)} folders, {folders[0]} and others: set config.data.image_root to the "
            "folder that their image paths are relative to."
        )
    return folder


def check_broken(where: str, broken: Sequence[str], rows: int, advice: str) -> None:
    """Log the unreadable rows of a file, which are left out.

    Args:
      where: path of the file.
      broken: line and problem of each unreadable row.
      rows: number of readable rows.
      advice: what to do, for the error.

    Raises:
      UserError: more than `MAX_BROKEN` of all rows are unreadable.
    """
    if not broken:
        return
    first = "; ".join(broken[:3])
    if len(broken) > MAX_BROKEN * (rows + len(broken)):
        raise UserError(f"{where}: {len(broken)} of {rows + len(broken)} rows cannot be read. First: {first}. {advice}")
    LOG.warning("%s: %d of %d rows left out: %s", redacted(where), len(broken), rows + len(broken), first)
