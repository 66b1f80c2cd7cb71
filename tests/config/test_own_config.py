"""A user's own config file works from any folder, without the checkout as working directory."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

OWN = """
from ml_collections import ConfigDict

from rankclip_jax.config import base


def get_config(objective: str = "clip") -> ConfigDict:
    config = base.get_config("mu", objective)
    config.batch_size = 48
    return config
"""

PROGRAM = """
from rankclip_jax import cli
CONFIG = cli.define_config()
cli.run(lambda argv: print(CONFIG.value.batch_size, CONFIG.value.objective.name, CONFIG.value.optimizer.warmup))
"""


@pytest.fixture
def run(tmp_path):
    """(arguments...) -> (exit code, stdout, stderr) of a command in a folder with a config file and nothing else."""
    (tmp_path / "own.py").write_text(OWN)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_config_outside_the_checkout(run):
    assert run("--config=own.py:siglip", "--config.optimizer.warmup=3 steps") == (0, "48 siglip 3 steps\n", "")


def test_a_mistake_in_a_config_outside_the_checkout(run):
    code, out, err = run("--config=own.py", "--config.optimizer.warm_up=3")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "Did you mean 'optimizer.warmup'?" in err
