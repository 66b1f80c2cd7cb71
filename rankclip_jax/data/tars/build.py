"""Opens the indexes of tars; builds missing and outdated ones in threads, with a progress bar.

Several processes may start at once. If the file system has locks, one process builds the index and the others wait.
Otherwise each process builds it, and the last file replaces the others.
"""

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
from rankclip_jax.data.tars.index import Index, read_index, write_index
from rankclip_jax.data.tars.location import IndexLocation
from rankclip_jax.data.tars.shard import Entry, Part, scan
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import redacted

THREADS = 8  # for reading tars
CONNECTIONS = 32  # for requesting the sizes of remote files
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
    files: Sequence[str], parts: Sequence[Part], index_dir: str = "", rebuild: bool = False
) -> list[Indexed]:
    """Return the index of every file, in the order of `files`; build missing indexes.

    Args:
      files: tars, paths or URLs.
      parts: extensions of each part of a sample; the image is the first.
      index_dir: folder for the index files; "" for a folder beside the tars.
      rebuild: whether to build all indexes again.

    Raises:
      UserError: a file is missing or not a tar, or no index file can be written.
    """
    stamps = dict(zip(files, _stamps(files), strict=True))
    folders = {}
    for file in stamps:
        folders.setdefault(os.path.dirname(redacted(file)), []).append(file)
    done = {}
    for folder, inside in folders.items():
        location = IndexLocation(folder, parts, index_dir)
        names = _names(inside)
        wanted = {names[file]: stamps[file] for file in inside}
        index, path = ({}, "") if rebuild else location.read(wanted)
        if len(index) < len(wanted):
            with location.locked() as path:
                # Another process may have written the file in the meantime. Its other shards are kept.
                known = {} if rebuild else location.read(wanted)[0]
                index = {} if rebuild else read_index(path, parts) | known
                missing = {name: stamp for name, stamp in wanted.items() if name not in known}
                if missing:
                    index = _Build({names[file]: file for file in inside}, parts, path, index).run(missing)
        done |= {file: Indexed(file, *index[names[file]], path) for file in inside}
    return [done[file] for file in files]


def _names(files: Sequence[str]) -> dict[str, str]:
    """Names of the tars of one folder in its index, without secrets. Equal names get a digest of the whole URL."""
    names = {file: os.path.basename(redacted(file)) for file in files}
    counts = Counter(names.values())
    digests = {file: hashlib.sha256(file.encode()).hexdigest()[:8] for file in files if counts[names[file]] > 1}
    return {file: name + (f" {digests[file]}" if file in digests else "") for file, name in names.items()}


class _Build:
    """Adds shards to one index in threads, and saves it from time to time."""

    def __init__(self, files: Mapping[str, str], parts: Sequence[Part], path: str, index: Index):
        """Take the tars by their names in the index, and the path and content of the index."""
        self._files, self._parts, self._path, self._index = files, parts, path, dict(index)
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
                write_index(self._path, self._index, self._parts)
        if self._refused:
            raise UserError(_refusal(self._refused))
        return read_index(self._path, self._parts)  # mapped, so the arrays in memory can be freed

    def _collect(self, waiting: Sequence[Future]) -> None:
        saved = time.monotonic()
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            if time.monotonic() - saved > SAVE_SECONDS:
                write_index(self._path, dict(self._index), self._parts)
                saved = time.monotonic()

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
            self._index[name] = shard


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


def _stamps(files: Sequence[str]) -> list[tuple[int, str]]:
    """Size and stamp of each file; URLs are requested in parallel."""
    if not any(map(locations.is_url, files)):
        return [_stamp(file) for file in files]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(_stamp, files))


def _stamp(file: str) -> tuple[int, str]:
    try:
        return locations.stamp(file)
    except FileNotFoundError as error:
        raise UserError(f"no tar at {file}: check the location, or leave it out of the range ({error}).") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}): check the location and your permissions.") from None
