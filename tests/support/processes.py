"""Python code in processes of its own: other device counts, several processes, exit codes, kills."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.forked import Forked

ROOT = Path(__file__).resolve().parents[2]


def start(code: str, *args: object, devices: int = 1, env: Mapping[str, str] | None = None) -> Forked:
    """Start `code` with `args` on `devices` fake CPU devices, with the product already imported."""
    return start_python("-c", textwrap.dedent(code), *args, devices=devices, env=env)


def start_python(*arguments: object, devices: int = 1, env: Mapping[str, str] | None = None) -> Forked:
    """Start ``python ARGUMENTS`` in the same way."""
    return Forked(list(map(str, arguments)), ROOT, _variables(devices, env))


def start_new(code: str, *args: object) -> subprocess.Popen:
    """Start `code` in an interpreter of its own; stdout and stderr are pipes of text."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        env=_variables(1, None),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _variables(devices: int, env: Mapping[str, str] | None) -> dict[str, str]:
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | dict(env or {})
    variables.pop("XLA_FLAGS", None)
    return variables


def finish(process: Forked | subprocess.Popen, seconds: float = 60) -> tuple[int, str, str]:
    """Wait for it; return (exit code, stdout, stderr). Too late, and it is killed (JAX ignores SIGTERM)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except (subprocess.TimeoutExpired, TimeoutError):
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


def finish_all(processes: Sequence[Forked], seconds: float = 90) -> Sequence:
    """`finish` each; whatever happens, none of them is left behind."""
    try:
        return [finish(process, seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
