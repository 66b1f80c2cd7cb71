"""A folder that only one process at a time may use."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import printable, warn

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # by some network file systems


@contextmanager
def held(folder: str | Path, advice: str) -> Iterator[None]:
    """Hold the lock of an existing folder.

    The operating system releases it when the process ends, however it ends. On a file system without locks there is a
    warning and no protection.

    Args:
      folder: a folder on this machine, or on a network file system.
      advice: the end of the error message: what else to do.

    Raises:
      UserError: another process holds it; the message names that process.
    """
    path = Path(folder) / NAME
    with _locked_file(path, advice) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked_file(path: Path, advice: str) -> TextIO:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, the caller closes it
        try:
            _lock(file, path.parent, advice)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that held it has just removed this file


def _lock(file: TextIO, folder: Path, advice: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            warn(f"{folder} is on a file system without locks ({error.strerror}): start only one run there at a time")
            return
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise UserError(f"{folder} is in use by {owner(folder) or 'another process'}: {advice}") from None


def owner(folder: str | Path) -> str:
    """Return the process that holds the lock of a folder, or held it last; "" if it is unknown."""
    with suppress(OSError), open(Path(folder) / NAME, encoding="utf-8", errors="replace") as file:
        return printable(file.read(200))
    return ""
