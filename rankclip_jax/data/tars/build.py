"""Opens the indexes of tars; makes what is missing or out of date, in threads, with a progress bar.

An index lies in a folder `FOLDER` beside the tars, or in a folder of the user's choice, or if neither can be
written in the user's cache. Several processes may start at once: where the file system has locks, one of them
makes the index and the others wait for it; where it has none, each makes it, and the last one stays.
"""

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.storage import local_files, locations
from rankclip_jax.data.tars.index import EMPTY, Entry, Index, read_index, remove_partials, write_index
from rankclip_jax.data.tars.shard import Part, Shard, scan
from rankclip_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOG = logging.getLogger(__name__)
FOLDER = "rankclip_index"  # beside the tars
SUFFIX = ".index"
LOCK = "lock"
THREADS = 8  # that read tars
CONNECTIONS = 32  # that ask for sizes over a network
CHUNK, REMOTE_CHUNK = 1 << 20, 1 << 23  # bytes read at a time
COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")  # gzip, bzip2, xz, zstd
SAVE_SECONDS = 60  # work that a kill may cost


class Indexed(NamedTuple):
    """A tar with its part of the index; `folder` is where that lies."""

    file: str
    entry: Entry
    rows: np.ndarray
    index: str


def open_indexes(
    files: Sequence[str], parts: Sequence[Part], index_dir: str = "", rebuild: bool = False
) -> list[Indexed]:
    """Index of every file, in their order, from what is there or made now.

    Args:
      files: tars, paths or URLs.
      parts: extensions of each part of a sample; the image is the first.
      index_dir: folder to keep indexes in; "" for beside the tars.
      rebuild: make all of them, whatever is there.

    Raises:
      UserError: a file is missing, or no tar; `index_dir` cannot be written.
    """
    stamps = dict(zip(files, _stamps(files), strict=True))
    folders = {}
    for file in stamps:
        folders.setdefault(os.path.dirname(file), []).append(file)
    done = {}
    for folder, inside in folders.items():
        home = IndexLocation(folder, parts, index_dir)
        wanted = {os.path.basename(file): stamps[file] for file in inside}
        index, path = (EMPTY, "") if rebuild else home.read(wanted)
        if len(index.entries) < len(wanted):
            index, path = home.make(wanted, rebuild)
        for file in inside:
            name = os.path.basename(file)
            done[file] = Indexed(file, index.entries[name], index.rows[name], path)
    return [done[file] for file in files]


class IndexLocation:
    """Where the index of the tars in one folder is, or may be."""

    def __init__(self, folder: str, parts: Sequence[Part], index_dir: str):
        self._folder, self._parts, self._chosen = folder, parts, index_dir
        kind = "+".join(part[0] if len(part) == 1 else "image" for part in parts) + SUFFIX
        # Elsewhere it needs a name that tells the folder.
        told = f"{os.path.basename(folder)}-{hashlib.sha256(folder.encode()).hexdigest()[:12]}-{kind}"
        beside = [] if locations.is_url(folder) else [os.path.join(folder, FOLDER, kind)]
        chosen = [os.path.join(os.path.abspath(os.path.expanduser(index_dir)), told)]
        self._paths = chosen if index_dir else [*beside, os.path.join(_cache(), told)]

    def read(self, wanted: dict[str, tuple[int, str]]) -> tuple[Index, str]:
        """The part of an index that is about the wanted shards and true of them, of the file that has most of it."""
        found = [(read_index(path, self._parts).fresh(wanted), path) for path in self._paths]
        return max(found, key=lambda pair: len(pair[0].entries))

    def make(self, wanted: dict[str, tuple[int, str]], rebuild: bool) -> tuple[Index, str]:
        """Index what is wanted and not there yet. Shards that are no longer wanted stay in the file."""
        with self._writable() as path:
            old = EMPTY if rebuild else read_index(path, self._parts)  # as another process may have left it by now
            known = self.read(wanted)[0] if not rebuild else EMPTY
            index = Index({**old.entries, **known.entries}, {**old.rows, **known.rows})
            missing = {name: stamp for name, stamp in wanted.items() if name not in known.entries}
            if missing:
                index = _Build(self._folder, self._parts, path, index).run(missing)
        return index, path

    @contextlib.contextmanager
    def _writable(self) -> Iterator[str]:
        """Hold the first place that can be written."""
        for path in self._paths:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                lock = os.open(os.path.join(os.path.dirname(path), LOCK), os.O_RDWR | os.O_CREAT, 0o666)
            except (PermissionError, NotADirectoryError, FileExistsError) as error:
                problem = error
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                problem = error
            else:
                if path != self._paths[0]:
                    LOG.warning("the index of %s is kept in %s, for %s", self._folder, os.path.dirname(path), problem)
                try:
                    if _locked(lock, path):
                        remove_partials(path)
                    yield path
                finally:
                    os.close(lock)  # which also unlocks
                return
        name = f"config.data.index_dir={self._chosen}" if self._chosen else "the index"
        raise UserError(f"{name} cannot be written ({problem}): set config.data.index_dir to a folder that can.")


class _Build:
    """The making of one index: shards are read in threads, and what is done is saved now and then."""

    def __init__(self, folder: str, parts: Sequence[Part], path: str, index: Index):
        self._folder, self._parts, self._path = folder, parts, path
        self._index = Index(dict(index.entries), dict(index.rows))
        self._saved = time.monotonic()
        self._stop = threading.Event()
        self._refused = []

    def run(self, missing: dict[str, tuple[int, str]]) -> Index:
        """Add the shards with the sizes and stamps given."""
        total = sum(size for size, _ in missing.values())
        title = f"indexing {len(missing)} tars"
        with tqdm(total=total, desc=title, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:
            pool, futures = ThreadPoolExecutor(THREADS), {}
            try:
                futures |= {
                    pool.submit(self._scan, name, *stamp, _Advance(bar)): name for name, stamp in missing.items()
                }
                self._collect(futures, missing)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._add_finished(futures, missing)
                write_index(self._path, self._index, self._parts)
        if self._refused:
            raise UserError(_refusal(self._refused))
        return read_index(self._path, self._parts)  # mapped, so that what was made here can go

    def _add(self, name: str, shard: Shard, stamp: tuple[int, str]) -> None:
        self._index.rows[name] = shard.rows
        self._index.entries[name] = Entry.of(shard, *stamp)

    def _add_finished(self, futures: dict[Future, str], stamps: dict[str, tuple[int, str]]) -> None:
        """What was read when the user interrupted, but not yet collected."""
        for future, name in futures.items():
            if name not in self._index.entries and not future.cancelled() and not future.exception():
                shard = future.result()
                if not shard.problem:
                    self._add(name, shard, stamps[name])

    def _collect(self, futures: dict[Future, str], stamps: dict[str, tuple[int, str]]) -> None:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                name, shard = futures[future], _result(future, f"{self._folder}/{futures[future]}")
                if shard.problem and not shard.members and stamps[name][0]:
                    self._refused.append(f"{self._folder}/{name}")
                    continue
                self._add(name, shard, stamps[name])
            if time.monotonic() - self._saved > SAVE_SECONDS:
                write_index(self._path, self._index, self._parts)
                self._saved = time.monotonic()

    def _scan(self, name: str, size: int, stamp: str, advance: "_Advance") -> Shard:
        file = f"{self._folder}/{name}"
        remote = locations.is_url(file)
        if not remote:
            local_files.forget(file)  # what was open may be the file as it was before

        def read(offset: int, length: int) -> bytes:
            if self._stop.is_set():
                raise InterruptedError
            advance.to(offset + length)
            return locations.read_range(file, offset, length)

        shard = scan(read, size, self._parts, REMOTE_CHUNK if remote else CHUNK)
        advance.to(size)
        return shard


def _result(future: Future, file: str) -> Shard:
    try:
        return future.result()
    except (OSError, EOFError) as error:
        raise UserError(f"{file} cannot be indexed ({error}): fetch it again, or leave it out.") from None


class _Advance:
    """Moves a progress bar that several shards share."""

    lock = threading.Lock()

    def __init__(self, bar: tqdm):
        self._bar, self._at = bar, 0

    def to(self, at: int) -> None:
        with self.lock:
            self._bar.update(max(0, at - self._at))
            self._at = max(at, self._at)


def _refusal(files: list[str]) -> str:
    first = ", ".join(sorted(files)[:10])
    zipped = [file for file in files if locations.read_range(file, 0, 4)[:2] in COMPRESSED]
    if zipped:
        return f"{len(zipped)} files are compressed and have no random access: decompress them. First: {first}."
    return f"{len(files)} files are no tars: fetch them again, or leave them out. First: {first}."


def _stamps(files: Sequence[str]) -> list[tuple[int, str]]:
    """Size and stamp of each file; remote ones are asked for many at a time."""
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
        raise UserError(f"{file} cannot be read ({error}): check the location, and whether you may.") from None


def _cache() -> str:
    """Where this user's caches are, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "rankclip_jax", "tars")


def _locked(lock: int, path: str) -> bool:
    """Wait for the lock; False if the file system has none. It goes with the process, however that ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOG.warning("waiting for another process, which makes the index %s", path)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
