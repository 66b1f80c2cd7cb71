"""Text on a terminal. Text from files never reaches it with control characters: they could move the cursor, recolour
or rewrite lines. Nor do the secrets of URLs."""

import logging
import re
import sys

from rankclip_jax.terminal.redact import redacted

# C0 and C1 controls (escape sequences begin with one), bidirectional controls, line separators, byte-order marks, and
# halves of surrogate pairs, which cannot be encoded. Joiners (U+200C, U+200D) stay: scripts and emoji need them.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

SHOWN = 300  # characters of `short`


def printable(text: object) -> str:
    r"""Return ``str(text)`` `redacted`, and with every control character as an escape, such as ``\x1b`` or ``\n``.

    For text from data, names of files and messages of other libraries. Applied again, it changes nothing.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), redacted(str(text)))


def printable_lines(text: object) -> str:
    """Return `printable` of each line: text that a command prints as several lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def short(text: object) -> str:
    """Return `printable` of the first characters: messages of other libraries may repeat a whole file."""
    text = str(text)
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def show(text: object = "") -> None:
    """Print `printable_lines` on stdout, at once. Commands print everything that may hold text of users by this."""
    print(printable_lines(text), flush=True)


def warn(text: object) -> None:
    """Print a warning of one line on stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def make_printable(record: logging.LogRecord) -> bool:
    """Filter of a log handler: make the message of a record printable."""
    record.msg, record.args = printable_lines(record.getMessage()), ()
    return True
