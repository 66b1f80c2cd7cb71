"""Errors that are the user's to mend: one line, exit code 2, no traceback."""

import difflib
import errno
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

# Numbers of an OSError that says that there is no room to write: disk, quota, size limit of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """A mistake in a command, config, data set or work folder.

    The message is one line that names the thing, says what was found, and what to do.
    Command-line entry points print it as ``error: ...`` and exit with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean X?'`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return ``registry[name]``; a miss is a `UserError` that prints the names it knows."""
    if name in registry:
        return registry[name]
    known = ", ".join(sorted(registry))
    raise UserError(f"unknown {kind} {name!r}.{did_you_mean(name, registry)} Known: {known}.")
