"""Files and folders that appear whole or not at all, also after a kill or loss of power.

Each is written under a temporary name beside its target, flushed to disk, and then renamed; the folder that
holds the name is flushed too.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PARTIAL = ".partial"


@contextmanager
def replaced_file(path: str | Path, mode: str = "w", partial: str | Path | None = None) -> Iterator[IO]:
    """Open a file that takes the place of `path` when the block ends, or leaves it as it was after an error.

    Args:
      path: the file to replace; its folder must exist.
      mode: "w" for text (UTF-8), "wb" for bytes.
      partial: the temporary file, for writers that may run at once; one name for all of them by default.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    partial = Path(partial or path.with_name(path.name + PARTIAL))
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to write into that takes the place of `path` when the block ends, or nothing on error.

    Raises:
      OSError: the folder cannot be made or renamed.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync(os.path.join(folder, name))
            sync_folder(folder)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Flush the names in a folder to disk; some file systems cannot, and are left alone."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
