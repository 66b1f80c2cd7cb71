"""Opens the indexes of tars; builds missing and outdated ones in threads, with a progress bar.

Several processes may start at once. If the file system has locks, one process builds the index and the others wait.
Otherwise each process builds it, and the last file replaces the others.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.storage import local_files, locations
from rankclip_jax.data.tars.index import Index, fresh, read_index, segments_of, write_index, write_segment
from rankclip_jax.data.tars.location import IndexLocation
from rankclip_jax.data.tars.shard import Entry, Part, scan
from rankclip_jax.data.tars.stamps import stamps_of
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import redacted

THREADS = 8  # for reading tars
CHUNK, REMOTE_CHUNK = 1 << 20, 1 << 23  # bytes read at a time
COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")  # first bytes of gzip, bzip2, xz, zstd
SAVE_SECONDS = 60  # between saves: a killed process loses at most this much work


class Indexed(NamedTuple):
    """A tar and its part of the index file at path `index`; `entry` and `rows` are as in `Shard`."""

    file: str
    entry: Entry
    rows: np.ndarray
    index: str


def open_indexes(
    files: Sequence[str], parts: Sequence[Part], index_dir: str = "", rebuild: bool = False, check_all: bool = False
) -> list[Indexed]:
    """Return the index of every file, in the order of `files`; build missing indexes.

    Args:
      files: tars, paths or URLs.
      parts: extensions of each part of a sample; the image is the first.
      index_dir: folder for the index files; "" for a folder beside the tars.
      rebuild: whether to build all indexes again.
      check_all: whether to look for changes in all tars, also in thousands of remote ones: `stamps_of`.

    Raises:
      UserError: a file is missing or not a tar, or no index file can be written.
    """
    folders: dict[str, list[str]] = {}
    for file in dict.fromkeys(files):
        folders.setdefault(os.path.dirname(redacted(file)), []).append(file)
    done = {}
    for folder, inside in folders.items():
        location, names = IndexLocation(folder, parts, index_dir), _names(inside)
        index, path = ({}, "") if rebuild else _best(location, names, check_all)
        if len(index) < len(inside):
            with location.locked() as path:
                # Another process may have written the file in the meantime. Its other shards are kept.
                known = {} if rebuild else _best(location, names, check_all)[0]
                index = {} if rebuild else location.shards(path) | known
                missing = [file for file in inside if names[file] not in known]
                if missing:
                    stamps = dict(zip((names[file] for file in missing), stamps_of(missing, {}), strict=True))
                    index = _Build({names[file]: file for file in inside}, parts, path, index).run(stamps)
        done |= {file: Indexed(file, *index[names[file]], path) for file in inside}
    return [done[file] for file in files]


def _best(location: IndexLocation, names: Mapping[str, str], check_all: bool) -> tuple[Index, str]:
    """The index file that has most of the tars in `names` (by file) as they are now: these shards, and its path."""
    found = location.read()
    old = max((index for index, _ in found), key=lambda index: len(index.keys() & names.values()))
    known = {file: (old[name].entry.size, old[name].entry.stamp) for file, name in names.items() if name in old}
    stamps = dict(zip(names.values(), stamps_of([*names], known, check_all), strict=True))
    return max(((fresh(index, stamps), path) for index, path in found), key=lambda pair: len(pair[0]))


def _names(files: Sequence[str]) -> dict[str, str]:
    """Names of the tars of one folder in its index, without secrets. Equal names get a digest of the whole URL."""
    names = {file: os.path.basename(redacted(file)) for file in files}
    counts = Counter(names.values())
    digests = {file: hashlib.sha256(file.encode()).hexdigest()[:8] for file in files if counts[names[file]] > 1}
    return {file: name + (f" {digests[file]}" if file in digests else "") for file, name in names.items()}


class _Build:
    """Adds shards to one index in threads, and saves them from time to time: memory does not grow with the index."""

    def __init__(self, files: Mapping[str, str], parts: Sequence[Part], path: str, index: Index):
        """Take the tars by their names in the index, and the path and content of the index."""
        self._files, self._parts, self._path, self._index = files, parts, path, dict(index)
        self._new: Index = {}  # not saved yet
        self._num_segments = len(segments_of(path))
        self._stop = threading.Event()
        self._refused = []

    def run(self, missing: Mapping[str, tuple[int, str]]) -> Index:
        """Add the shards with these names, sizes and stamps; finished shards are saved even after an error."""
        total, title = sum(size for size, _ in missing.values()), f"indexing {len(missing)} tars"
        pool = ThreadPoolExecutor(THREADS)
        with tqdm(total=total, desc=title, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:
            try:
                self._collect([pool.submit(self._scan, name, stamp, bar) for name, stamp in missing.items()])
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._finish()
        if self._refused:
            raise UserError(_refusal(self._refused))
        return read_index(self._path, self._parts)  # mapped, so the arrays in memory can be freed

    def _collect(self, waiting: Sequence[Future]) -> None:
        saved = time.monotonic()
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            if self._new and time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()

    def _save(self) -> None:
        """Move the new shards from memory to a mapped segment."""
        new = dict(self._new)  # other threads add shards meanwhile
        self._index |= write_segment(self._path, self._num_segments, new, self._parts)
        self._num_segments += 1
        for name in new:
            del self._new[name]

    def _finish(self) -> None:
        write_index(self._path, self._index | self._new, self._parts)
        for segment in segments_of(self._path):
            with contextlib.suppress(FileNotFoundError):  # without locks another process may have removed it
                os.remove(segment)

    def _scan(self, name: str, stamp: tuple[int, str], bar: tqdm) -> None:
        file = self._files[name]
        is_remote, progress = locations.is_url(file), SharedProgress(bar)
        if not is_remote:
            local_files.forget(file)  # the file may have been replaced, and its old descriptor may still be open

        def read(offset: int, length: int) -> bytes:
            if self._stop.is_set():
                raise InterruptedError
            progress.to(offset + length)
            return locations.read_range(file, offset, length)

        try:
            shard = scan(read, stamp, self._parts, REMOTE_CHUNK if is_remote else CHUNK)
        except (OSError, EOFError) as error:
            raise UserError(f"{file} cannot be indexed ({error}): download it again, or leave it out.") from None
        progress.to(stamp[0])
        if shard.entry.problem and not shard.entry.members and stamp[0]:
            self._refused.append(file)
        else:
            self._new[name] = shard


class SharedProgress:
    """The progress of one file, in a bar for all files and threads."""

    _lock = threading.Lock()

    def __init__(self, bar: tqdm):
        self._bar, self._at = bar, 0

    def to(self, at: int) -> None:
        """Report that the file has been read up to byte `at`."""
        with self._lock:
            self._bar.update(max(0, at - self._at))
            self._at = max(at, self._at)


def _refusal(files: list[str]) -> str:
    first = ", ".join(sorted(files)[:10])
    compressed = [file for file in files if locations.read_range(file, 0, min(2, locations.size(file))) in COMPRESSED]
    if compressed:
        return f"{len(compressed)} files are compressed and have no random access: decompress them. First: {first}."
    return f"{len(files)} files are not tars: download them again, or leave them out. First: {first}."
