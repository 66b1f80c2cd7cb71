"""Errors that the user can fix: one line, exit code 2, no traceback."""

import difflib
import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from rankclip_jax.terminal.redact import redacted

T = TypeVar("T")

# Values of `OSError.errno` when there is no room to write: disk full, quota, file size limit.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The same when a path may not be read or written: permissions, a file system that is mounted read-only.
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """A mistake in a command, config, data set or run folder.

    The message is one line: what is wrong, where, and what to do. Commands print it as ``error: ...`` and exit with
    code 2. Secrets in URLs are removed from it.
    """

    def __init__(self, message: str):
        super().__init__(redacted(message))


class Stopped(Exception):
    """A run was asked to stop, and has saved what it did. Commands print the message and exit with code 75."""


def install_hint(extra: str) -> str:
    """Return the command, for this checkout, that installs an optional dependency group of pyproject.toml."""
    return f"pip install -e '.[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean X?'`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_few(items: Sequence[str], separator: str = "; ") -> str:
    """Return the first three items as one text, and the number of the others: ``'a; b; c and 2 more'``."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return separator.join(items[:3]) + more


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return ``registry[name]``.

    Raises:
      UserError: there is no such name; the message lists the known names.
    """
    if name in registry:
        return registry[name]
    known = ", ".join(sorted(registry))
    raise UserError(f"unknown {kind} {name!r}.{did_you_mean(name, registry)} Known: {known}.")
