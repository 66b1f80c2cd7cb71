"""One check of the doctor: a function with a time limit, whose errors are results like any other."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rankclip_jax.terminal.show import short

OK, NOTE, FAILED = "ok", "note", "FAILED"


class Finding(NamedTuple):
    """What a check found.

    Attributes:
      status: "ok"; "note": worth reading, but no problem; "FAILED".
      text: for people, one line.
      values: for programs, in --json.
    """

    status: str
    text: str
    values: Mapping[str, Any] = {}


class Result(NamedTuple):
    """A finding, with the name of its check and the seconds it took."""

    name: str
    finding: Finding
    seconds: float


def run(name: str, check: Callable[[], Finding], limit: float) -> Result:
    """Run `check`; an error, or more than `limit` seconds, is a failed finding. A late check is left behind."""
    found: list[Finding] = []
    begin = time.perf_counter()
    thread = threading.Thread(target=lambda: found.append(_caught(check)), daemon=True, name=name)
    thread.start()
    thread.join(limit)
    late = Finding(FAILED, f"no answer after {limit:g} s (--limit=SECONDS sets the time limit)")
    return Result(name, found[0] if found else late, time.perf_counter() - begin)


def _caught(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except BaseException as error:  # also SystemExit of a library
        lines = str(error).strip().splitlines()
        return Finding(FAILED, short(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")))
