"""Fixtures that several test files share."""

import functools
import os

import pytest

from tests.support.paths import ROOT

# Before JAX is imported, and for the processes that tests start. Compilation is most of a test's time: without LLVM's
# optimizations it takes half of it, and a program that one worker or process has compiled is read by the others, in
# later sessions too (its key covers the program, the compiler's version and its flags).
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")  # a sum of [B] and [B, 1] is nearly always a mistake
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from tests.support import runs, sheets

sheets.keep_decoded()


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """A finished run of 20 steps with its best checkpoint and the newest two, for tests that only read it.

    Made once by a worker: such tests are in the group "trouble".
    """
    workdir = tmp_path_factory.mktemp("short") / "run"
    flags = ("--config.duration=20", "--config.checkpoint.every=5", "--config.checkpoint.keep=2")
    code, _, err = runs.train(workdir, *flags)
    assert code == 0, err
    return workdir


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    """The images, some of them broken, and ``pairs.csv`` of `data_commands`."""
    from tests.support.data_commands import write_folder

    return write_folder(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def run_data(capsys):
    """(name, config, arguments...) to what that data command prints."""
    from tests.support.data_commands import run_command

    return functools.partial(run_command, capsys)
