"""Tars of images and captions, as img2dataset and the webdataset library write them.

    00000.tar: 000000000.jpg  000000000.txt  000000000.json  000000001.jpg ...

Members with the same name up to the first dot are one sample. Tars are indexed once (`tars.build`) and then read in
any order: every shuffle covers all pairs, and a run resumes at any step.

Keys of `config.data`: ``image_key`` is the extension of the image, such as "png". ``caption_key`` and
``second_caption_key`` are the extension of the caption, such as "txt", or a field of a JSON member (`caption_keys`).
"""

import hashlib
import json
import logging
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate

import numpy as np

from rankclip_jax.data.images.extensions import EXTENSIONS
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.caption_keys import CaptionKey, field_of, parse_key
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.storage import locations
from rankclip_jax.data.storage.folders import names_below
from rankclip_jax.data.tars.build import Indexed, open_indexes
from rankclip_jax.data.tars.headers import BLOCK, member_name
from rankclip_jax.data.tars.report import problems, summary
from rankclip_jax.data.tars.shard import FIRST, HEADERS, Part, key_hash, split_name
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import parse_json
from rankclip_jax.terminal.redact import redacted

LOG = logging.getLogger(__name__)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
CAPTION = "txt"
NEAR = 1 << 18  # reading this many unused bytes over a network is better than a second request


class WebDataset(PairSource):
    """The pairs of some tars. Only the index is in memory, memory-mapped.

    Args:
      tars: the tars with their indexes.
      parts: extensions of the parts of a sample; part 0 is the image.
      captions: locations of the captions and, optionally, of the second captions.
    """

    def __init__(self, tars: Sequence[Indexed], parts: Sequence[Part], captions: Sequence[CaptionKey]):
        self._files = [tar.file for tar in tars]
        self._rows = [tar.rows for tar in tars]
        self._ends = list(accumulate(len(rows) for rows in self._rows))
        self._digests = [tar.entry.digest for tar in tars]
        self._parts = parts
        self._captions = captions
        self._names = names_below([redacted(file) for file in self._files])
        self._near = threading.local()
        self.has_second_captions = len(captions) > 1

    def __len__(self) -> int:
        return self._ends[-1]

    def key(self, index: int) -> str:
        file, row = self._row(index)
        begin, headers = row[FIRST] * BLOCK, row[HEADERS] * BLOCK
        name = member_name(self._bytes(index, file, row, begin - headers, headers))
        return f"{self._names[bisect_right(self._ends, index)]}/{name.decode(errors='replace')}"

    def find(self, keys: Collection[str]) -> np.ndarray:
        wanted = {name: [] for name in self._names}
        for key in keys:
            cuts = (i for i, character in enumerate(key) if character == "/" and key[:i] in wanted)
            if (cut := next(cuts, None)) is not None:
                wanted[key[:cut]].append(split_name(key[cut + 1 :].encode())[0])
        found = []
        for name, rows, end in zip(self._names, self._rows, self._ends, strict=True):
            if wanted[name]:
                hashes = np.ascontiguousarray(rows[:, :HEADERS]).view("<u8").ravel()
                found.append(np.flatnonzero(np.isin(hashes, key_hash(wanted[name]))) + end - len(rows))
        return np.concatenate([np.zeros(0, np.int64), *found])

    def captions(self, index: int) -> tuple[str, ...]:
        return self._caption(index, self._captions[0])

    def second_captions(self, index: int) -> tuple[str, ...]:
        return self._caption(index, self._captions[1]) if self.has_second_captions else ()

    def image_bytes(self, index: int) -> bytes:
        file, row = self._row(index)
        return self._part(index, file, row, 0)

    def digest(self) -> str:
        """Covers the names and sizes of members, but not their content."""
        covered = [self._parts, self._captions, self._digests]
        return hashlib.sha256(json.dumps(covered).encode()).hexdigest()

    def _row(self, index: int) -> tuple[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        rows = self._rows[shard]
        return self._files[shard], rows[index - self._ends[shard] + len(rows)].tolist()

    def _caption(self, index: int, caption: CaptionKey) -> tuple[str, ...]:
        file, row = self._row(index)
        data = self._part(index, file, row, self._parts.index((caption.extension,), 1))
        return captions_of(field_of(parse_json(data), caption) if caption.fields else data)

    def _part(self, index: int, file: str, row: Sequence[int], part: int) -> bytes:
        return self._bytes(index, file, row, row[FIRST + 2 * part] * BLOCK, row[FIRST + 2 * part + 1])

    def _bytes(self, index: int, file: str, row: Sequence[int], begin: int, size: int) -> bytes:
        """Bytes of a sample. A remote sample is read completely, and cached for the next call of this thread."""
        if not locations.is_url(file):
            return locations.read_range(file, begin, size)
        of, start, data = getattr(self._near, "fetched", (None, 0, b""))
        if of != index:
            start, length = _extent(row)
            if length > sum(row[FIRST + 1 :: 2]) + NEAR:
                return locations.read_range(file, begin, size)  # the members are too far apart
            data = locations.read_range(file, start, length)
            self._near.fetched = index, start, data
        return data[begin - start : begin - start + size]


def open_pairs(files: Sequence[str], options: PairOptions) -> WebDataset:
    """Open tars, and index them if necessary.

    Raises:
      UserError: a file is compressed or not a tar, or no sample has both image and caption.
    """
    tars, parts, captions = _open(files, options)
    for line in problems(tars):
        LOG.warning("%s", line)
    return WebDataset(tars, parts, captions)


def index(files: Sequence[str], options: PairOptions, rebuild: bool = False) -> str:
    """Index tars and return a summary. With `rebuild`, tars that have an index are indexed again."""
    began = time.monotonic()
    tars, _, _ = _open(files, options, rebuild, check_all=True)
    return summary(tars, time.monotonic() - began)


def _open(
    files: Sequence[str], options: PairOptions, rebuild: bool = False, check_all: bool = False
) -> tuple[list[Indexed], list[Part], list[CaptionKey]]:
    compressed = [file for file in files if file.lower().endswith(COMPRESSED)]
    if compressed:
        raise UserError(f"{compressed[0]} is compressed and has no random access: decompress it, as in gunzip FILE.")
    captions = [parse_key(options.caption_key or CAPTION)]
    if options.second_caption_key:
        captions.append(parse_key(options.second_caption_key))
    images = (options.image_key.lower().lstrip("."),) if options.image_key else EXTENSIONS
    parts = [images, *dict.fromkeys((caption.extension,) for caption in captions)]
    tars = open_indexes(files, parts, os.path.expanduser(options.index_dir), rebuild, check_all)
    if not any(tar.entry.pairs for tar in tars):
        raise UserError(_no_pairs(tars, parts))
    return tars, parts, captions


def _no_pairs(tars: Sequence[Indexed], parts: Sequence[Part]) -> str:
    found = sorted({extension for tar in tars for extension in tar.entry.extensions})
    wanted = " and ".join("an image" if part == EXTENSIONS else "/".join(part) for part in parts)
    dots = " Members are samples by their names up to the first dot: rename those with more dots."
    return (
        f"no sample in {tars[0].file}{' and others' if tars[1:] else ''} has {wanted}: its members are "
        f"{', '.join(found) or 'none'}; set data.image_key and data.caption_key, such as txt or json.caption."
        f"{dots if found and all('.' in name for name in found) else ''}"
    )


def _extent(row: Sequence[int]) -> tuple[int, int]:
    """Offset and number of bytes of a sample, including the headers of its image."""
    begins = [block * BLOCK for block in row[FIRST::2]]
    ends = [begin + size for begin, size in zip(begins, row[FIRST + 1 :: 2], strict=True)]
    start = min(begins[0] - row[HEADERS] * BLOCK, *begins)
    return start, max(ends) - start
