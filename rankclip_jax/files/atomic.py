"""Atomic writes: a file or folder is complete or unchanged, also after a kill or a loss of power.

Content is written under a temporary name beside the target, flushed to disk, and renamed. Then the parent folder, which
holds the name, is flushed too.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rankclip_jax.errors import UserError

PARTIAL = ".partial"
REPLACED = ".replaced"


@contextmanager
def replaced_path(path: str | Path, partial: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary path, for libraries that open files themselves. When the block ends, its file replaces `path`.

    After an error in the block, the temporary file is removed and `path` is unchanged.

    Args:
      path: the file to replace; its folder must exist.
      partial: the temporary path. The default is the same for all writers of `path`; writers that may run at the
        same time must pass different ones.

    Raises:
      OSError: the file cannot be flushed or renamed, or the block wrote no file.
      UserError: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written there: move it away")
    partial = Path(partial or path.with_name(path.name + PARTIAL))
    try:
        with errors_of(path):
            yield partial
            _sync(partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replaced_file(path: str | Path, mode: str = "w", partial: str | Path | None = None) -> Iterator[IO]:
    """Open a temporary file for writing; when the block ends, it replaces `path`. Arguments as in `replaced_path`.

    `mode` is "w" for text (UTF-8) or "wb" for bytes.
    """
    encoding = None if "b" in mode else "utf-8"
    with replaced_path(path, partial) as partial, open(partial, mode, encoding=encoding) as file:
        yield file


@contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder. When the block ends, it replaces the folder `path`.

    After an error in the block, the temporary folder is removed and `path` is unchanged. Two renames are needed,
    because not every system can exchange two folders. A kill between them leaves no folder at `path`: the old one is
    then beside it, under a name that ends in ".replaced". A mixture of old and new files never appears.

    Raises:
      OSError: the folder cannot be made or renamed.
    """
    path = Path(path)
    partial, replaced = (path.with_name(f".{path.name}{suffix}") for suffix in (PARTIAL, REPLACED))
    shutil.rmtree(partial, ignore_errors=True)  # from a killed process
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync(os.path.join(folder, name))
            sync_folder(folder)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            path.rename(replaced)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Give an `OSError` of the block the name of the file, for the message: a failed write has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: str | Path) -> None:
    """Flush the names in a folder to disk. File systems that cannot do this are ignored."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
