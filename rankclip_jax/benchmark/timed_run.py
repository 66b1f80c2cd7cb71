"""Time and peak memory of one run of a case, measured in the case's process."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def timed_run(run: Callable[[], object]) -> dict[str, float]:
    """Run once; return {"seconds", "peak_bytes"}.

    ``peak_bytes`` is the peak of resident memory of this process during the run, minus the resident memory before.
    """
    before = _reset_peak()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": max(0, _peak() - before)}


def _reset_peak() -> int:
    """Reset the peak to the present resident memory if the system supports it; return the peak."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
