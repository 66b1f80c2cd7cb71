"""Fixtures that several test files share."""

import functools
import os

import pytest

from tests.support import runs


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory) -> dict[str, str]:
    """Environment for processes that compile the same programs: one compiles, the others read.

    The programs of one session only, so that nothing stale is ever run.
    """
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # a worker has a folder of its own
    return {
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="session")
def short_run(tmp_path_factory, compile_cache):
    """A finished run of 20 steps with its best checkpoint and the newest two, for tests that only read it.

    Made once by a worker: such tests are in the group "trouble".
    """
    workdir = tmp_path_factory.mktemp("short") / "run"
    flags = ("--config.duration=20", "--config.checkpoint.every=5", "--config.checkpoint.keep=2")
    code, _, err = runs.train(workdir, *flags, env=compile_cache)
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
