"""The path of the index of the tars in one folder: in `index_dir`, or by default in a folder `FOLDER` beside the tars.

If that folder cannot be written, or the tars have URLs, it is in the user's cache.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence

from rankclip_jax.data.storage import locations
from rankclip_jax.data.tars.index import Index, read_index, remove_partials, segments_of
from rankclip_jax.data.tars.shard import Part
from rankclip_jax.errors import UserError
from rankclip_jax.files.user_cache import user_cache

LOG = logging.getLogger(__name__)
FOLDER = "rankclip_index"
SUFFIX = ".index"
LOCK = "lock"
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class IndexLocation:
    """The possible paths of the index of a folder, the preferred path first."""

    def __init__(self, folder: str, parts: Sequence[Part], index_dir: str):
        self._folder, self._parts, self._index_dir = folder, parts, index_dir
        kind = "+".join(part[0] if len(part) == 1 else "image" for part in parts) + SUFFIX
        beside = [] if locations.is_url(folder) else [os.path.join(folder, FOLDER, kind)]
        # If the index is not beside the tars, its name must identify their folder.
        name = f"{os.path.basename(folder)}-{hashlib.sha256(folder.encode()).hexdigest()[:12]}-{kind}"
        chosen = os.path.join(os.path.abspath(os.path.expanduser(index_dir)), name)
        self._paths = [chosen] if index_dir else [*beside, os.path.join(str(user_cache("tars")), name)]

    @property
    def path(self) -> str:
        """The preferred path."""
        return self._paths[0]

    def read(self) -> list[tuple[Index, str]]:
        """The shards in each index file and its segments, and its path. The tars may have changed since."""
        return [(self.shards(path), path) for path in self._paths]

    def shards(self, path: str) -> Index:
        """The shards in the index file at `path` and its segments."""
        found = read_index(path, self._parts)
        for segment in segments_of(path):  # left by a killed process, or written by one that is not finished
            found |= read_index(segment, self._parts)
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[str]:
        """Lock the first writable path; `UserError` if there is none."""
        path, lock = self._open_lock()
        try:
            if _wait_for(lock, path):
                remove_partials(path)
            yield path
        finally:
            os.close(lock)  # also unlocks

    def _open_lock(self) -> tuple[str, int]:
        problem = None
        for path in self._paths:
            folder = os.path.dirname(path)
            try:
                os.makedirs(folder, exist_ok=True)
                lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
                problem = error
            else:
                if problem:
                    LOG.warning("the index of %s is kept in %s (%s)", self._folder, folder, problem)
                return path, lock
        name = f"config.data.index_dir={self._index_dir}" if self._index_dir else "the index"
        raise UserError(f"{name} cannot be written ({problem}): set config.data.index_dir to a writable folder.")


def _wait_for(lock: int, path: str) -> bool:
    """Wait for the lock; False if the file system has no locks. It is released when the process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOG.warning("waiting for another process that builds the index %s", path)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
