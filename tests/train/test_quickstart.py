"""The quickstart's own command, at the size of a test."""

import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="launch/environment.sh has not made .venv here")
def test_quickstart(tmp_path):
    command = ["bash", "launch/quickstart.sh", "--config=configs/emoji.py:mu", f"--workdir={tmp_path / 'run'}"]
    flags = ["--config.duration=2", "--config.eval.metrics=('retrieval',)", "--config.log.diagnostics=False"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.stdout and (tmp_path / "run" / "eval.json").exists()
