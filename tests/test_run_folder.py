"""The run folder: whether it can be written to, has progress to lose, and what its metrics say."""

import math
import os

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.run_folder import has_checkpoint, has_progress, make_workdir, read_metrics


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    for _ in range(2):
        make_workdir(str(tmp_path / "runs" / "one"))
    assert list((tmp_path / "runs" / "one").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=rf"cannot write to --workdir={workdir} \(.*\): fix that or choose another"):
            make_workdir(str(workdir))
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        make_workdir(str(tmp_path))


def test_progress_is_a_checkpoint_or_a_line_of_metrics(tmp_path):
    assert not has_progress(tmp_path / "none") and not has_progress(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoints" / "3.damaged").mkdir(parents=True)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert not has_progress(tmp_path) and not has_checkpoint(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert has_progress(tmp_path) and not has_checkpoint(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "checkpoints" / "3").mkdir()
    assert has_progress(tmp_path) and has_checkpoint(tmp_path)


def test_a_line_without_an_end_is_not_read_at_once(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + "[" * 3_000_000 + '\n{"step": 2}\n')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_invalid_lines_of_metrics_are_skipped(tmp_path):
    assert read_metrics(tmp_path) == []
    invalid = ["[1]", '{"loss": 1}', '{"step": "2"}', "", "\xff", '{"step": 3, "lo']
    lines = ['{"step": 1, "loss": 2}', *invalid, '{"step": 3, "loss": "NaN"}']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    first, last = read_metrics(tmp_path)
    assert first == {"step": 1, "loss": 2.0} and isinstance(first["loss"], float) and isinstance(first["step"], int)
    assert last["step"] == 3 and math.isnan(last["loss"])
