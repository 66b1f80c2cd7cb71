"""Scripts of launch/ in bash, with short programs in place of training."""

import signal
import subprocess
from pathlib import Path

from tests.support.paths import ROOT


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen:
    """Start ``bash launch/SCRIPT ARGUMENTS`` with pipes of text for stdout and stderr."""
    return subprocess.Popen(
        ["bash", f"launch/{script}", *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Without this, bash could not trap SIGINT where it is ignored: in the background jobs of a shell.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen, seconds: float = 20) -> tuple[int, str, str]:
    """Wait for it and return (exit code, stdout, stderr); too late, and it is killed."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run(script: str, *arguments: object, **variables: str) -> tuple[int, str, str]:
    """`start` and `finish`."""
    return finish(start(script, *arguments, **variables))


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
