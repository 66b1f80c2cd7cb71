"""`python -m rankclip_jax.benchmark start`: its processes, and the phases of a real start."""

import json
import subprocess
import time
from types import SimpleNamespace

import pytest

from rankclip_jax import train
from rankclip_jax.benchmark import runner, start
from rankclip_jax.errors import UserError
from rankclip_jax.training import loop, setup
from tests.support.commands import run_module

CONFIG = "--config=configs/emoji.py:mu"
SECONDS = {name: 0.5 + i for i, name in enumerate(start.PHASES)}


@pytest.fixture
def started(monkeypatch):
    """Replace processes. Returns the list of those started: command and folder of compiled programs."""
    found = []

    def run(command, env, **options):
        found.append((command, env["JAX_COMPILATION_CACHE_DIR"]))
        return SimpleNamespace(returncode=0, stdout=f"a line\n{json.dumps(SECONDS)}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["benchmark", "start", CONFIG, "--config.seed", "7", "--rounds=2"])
    return found


def test_cold_starts_have_new_folders_and_warm_starts_share_one(started):
    config = SimpleNamespace(model=SimpleNamespace(name="mu"), batch_size=32)
    for cases in start.groups(SimpleNamespace(config=config)):
        rows = runner.measure("start", start.BENCHMARK, cases, rounds=2)
    assert [row["programs"] for row in rows] == ["cold", "warm"]
    assert all(row | SECONDS == row and row["base"] == "cold" for row in rows)
    cold, warm = ([folder for _, folder in started][i::2] for i in (0, 1))
    assert len(set(cold)) == 3 and len(set(warm)) == 1 and not set(cold) & set(warm)
    command = started[0][0]
    assert command[-3:] == [CONFIG, "--config.seed", "7"] and command[2] == "rankclip_jax.benchmark.first_step"
    lines = runner.describe(start.BENCHMARK, rows).splitlines()
    assert lines[0].startswith("from the command to the end of the first step: model mu, batch 32;")
    assert lines[2].split()[:6] == ["cold", "0.5", "1.5", "2.5", "3.5", "4.5"]


def test_a_start_that_fails_is_one_line(tmp_path, monkeypatch):
    done = SimpleNamespace(returncode=2, stdout="", stderr="warning\nerror: unknown config key 'x'\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done)
    with pytest.raises(UserError, match="the start failed: error: unknown config key 'x'"):
        start.phases([CONFIG], tmp_path, keep_programs=False)


def test_the_phases_of_a_real_start(tmp_path, capsys, monkeypatch):
    for owner, name in ((setup, "build"), (train, "create_state"), (loop, "put_batch"), (loop.Clock, "tick")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # restored after the test
    begin = time.monotonic()
    small = ("--config.model.image.layers=1", "--config.model.text.layers=1", f"--workdir={tmp_path / 'run'}")
    code, out, err = run_module(capsys, "rankclip_jax.benchmark.first_step", f"--begin={begin}", CONFIG, *small)
    elapsed = time.monotonic() - begin
    assert code == 0, err
    found = json.loads(out.strip().splitlines()[-1])
    assert tuple(found) == start.PHASES and all(value > 0 for value in found.values())
    assert sum(found.values()) <= elapsed
