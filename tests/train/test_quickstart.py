"""The quickstart's own command, at the size of a test."""

import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="launch/environment.sh has not made .venv here")
def test_quickstart(tmp_path):
    command = ["bash", "launch/quickstart.sh", f"--workdir={tmp_path / 'run'}"]
    flags = ["--config.duration=2", "--config.batch_size=16", "--config.data.train_limit=64"]
    flags += ["--config.model.image.widths=(8, 16)", "--config.tokenizer.vocab_size=512"]
    flags += [
        "--config.eval.metrics=('retrieval',)",
        "--config.eval.report_split=val",
        "--config.log.diagnostics=False",
    ]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.stdout and (tmp_path / "run" / "eval.json").exists()
