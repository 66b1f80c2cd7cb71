"""Python processes in which the product is imported already: forks of a server that has done it.

Most of what a test process costs is its imports (3 to 4 s of processor time). A fork server of the standard library
does them once for each test worker, and every process of a test is a fork of it.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.preloaded"])


class Forked:
    """``python ARGUMENTS`` in `folder`, with the part of `subprocess.Popen`'s interface that tests use.

    `arguments` begin with ``-m MODULE`` or ``-c CODE``. `variables` is the whole environment.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str]):
        self._files = tempfile.TemporaryDirectory(prefix="forked-")
        paths = [os.path.join(self._files.name, name) for name in ("out", "err")]
        self._process = CONTEXT.Process(target=_run, args=(list(arguments), str(folder), dict(variables), *paths))
        self._process.start()
        self._paths = paths

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return stdout and stderr. Raises TimeoutError after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s")
        return tuple(Path(path).read_text() if os.path.exists(path) else "" for path in self._paths)


def _run(arguments: list[str], folder: str, variables: dict[str, str], out: str, err: str) -> None:
    """What a process does after the fork: become ``python ARGUMENTS``."""
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    _set_environment(variables)
    os.chdir(folder)
    how, what, *rest = arguments
    sys.argv = [how, *rest]
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), _main_module())
    finally:  # a process of multiprocessing ends without them
        atexit._run_exitfuncs()


def _main_module() -> dict:
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    return vars(module)


def _set_environment(variables: dict[str, str]) -> None:
    """Replace the environment, also where JAX has read it: at its import."""
    import jax

    for name in ("JAX_NUM_CPU_DEVICES",):
        if name in variables:
            jax.config.update(name.lower(), int(variables[name]))
    os.environ.clear()
    os.environ.update(variables)
