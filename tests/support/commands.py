"""Commands in this process: what they print and their exit code, without the seconds that a new process takes.

One test of each command starts a real process; mistakes on the command line are tested here.
"""

import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags

from tests.support.paths import ROOT


def run_module(capsys, module: str, *arguments: object) -> tuple[int, str, str]:
    """``python -m MODULE ARGUMENTS`` from the root of the checkout; return (exit code, stdout, stderr)."""
    with _command_line(module, arguments), _flags_of_its_own(), _working_directory(ROOT):
        capsys.readouterr()
        code = _exit_code(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    return code, *capsys.readouterr()


def run_code(capsys, code: str, *arguments: object) -> tuple[int, str, str]:
    """The same for a program given as text."""
    with _command_line("prog", arguments), _flags_of_its_own():
        capsys.readouterr()
        exit_code = _exit_code(lambda: exec(compile(code, "prog", "exec"), {"__name__": "__main__"}))
    return exit_code, *capsys.readouterr()


def _exit_code(run) -> int:
    try:
        run()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@contextmanager
def _command_line(program: str, arguments: tuple[object, ...]) -> Iterator[None]:
    before, sys.argv = sys.argv, [program, *map(str, arguments)]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _flags_of_its_own() -> Iterator[None]:
    """Remove the flags that the command defines; those of absl and Grain are defined once and get their values back."""
    known = set(flags.FLAGS)
    values = {name: (flags.FLAGS[name].value, flags.FLAGS[name].present) for name in known}
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - known:
            module = flags.FLAGS.find_module_defining_flag(name, "")
            if name.startswith("config.") or not module.startswith(("absl", "grain")):
                delattr(flags.FLAGS, name)
        for name, (value, present) in values.items():
            flags.FLAGS[name].value, flags.FLAGS[name].present = value, present
        flags.FLAGS.unparse_flags()


@contextmanager
def _working_directory(folder) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
