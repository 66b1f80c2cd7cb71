"""Python code in processes of its own: other device counts, several processes, exit codes, kills."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(code: str, *args: object, devices: int = 1, env: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start `code` with `args` on `devices` fake CPU devices; stdout and stderr are pipes of text."""
    return start_python("-c", textwrap.dedent(code), *args, devices=devices, env=env)


def start_python(*arguments: object, devices: int = 1, env: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start ``python ARGUMENTS`` in the same way."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | dict(env or {})
    variables.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, seconds: float = 60) -> tuple[int, str, str]:
    """Wait for it; return (exit code, stdout, stderr). Too late, and it is killed (JAX ignores SIGTERM)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s\n{out}\n{err}") from None
    return process.returncode, out, err


def run(code: str, *args: object, devices: int = 1, seconds: float = 60) -> tuple[int, str, str]:
    """`start` and `finish`."""
    return finish(start(code, *args, devices=devices), seconds)


def run_together(code: str, *args: object, count: int, devices: int = 1, seconds: float = 90) -> Sequence:
    """Run `code` in `count` processes that find each other; return what `finish` gives for each."""
    return finish_all([start(code, *args, devices=devices, env=env) for env in environments(count)], seconds)


def environments(count: int) -> list[dict[str, str]]:
    """The variables by which `count` processes find each other."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {"RANKCLIP_COORDINATOR": f"localhost:{port}", "RANKCLIP_PROCESS_COUNT": str(count)}
    return [shared | {"RANKCLIP_PROCESS_ID": str(index)} for index in range(count)]


def finish_all(processes: Sequence[subprocess.Popen], seconds: float = 90) -> Sequence:
    """`finish` each; whatever happens, none of them is left behind."""
    try:
        return [finish(process, seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
