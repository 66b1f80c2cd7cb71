"""Fixtures that several test files share."""

import os

import pytest


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
