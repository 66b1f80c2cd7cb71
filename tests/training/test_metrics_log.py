"""The copy of metrics.jsonl in checkpoints: complete at every step, over restarts, and small."""

import json

import numpy as np
import pytest

from rankclip_jax.training.metrics_log import MetricsLog


def line(step):
    rng = np.random.default_rng(step)
    return json.dumps({"step": step, "loss": float(rng.normal()), "train/grad_norm": float(rng.normal())})


def text(*steps):
    return "".join(line(step) + "\n" for step in steps)


def test_each_copy_has_the_lines_up_to_its_time(tmp_path):
    log, copies = MetricsLog(tmp_path / "run"), {}
    for step in range(1, 301):
        log.append(line(step))
        copies[step] = log.packed()
    log.close()
    assert len(copies[300]) < len(text(*range(1, 301)))
    for step in (1, 2, 150, 300):
        (tmp_path / str(step)).mkdir()
        restored = MetricsLog(tmp_path / str(step))
        restored.restart(step, copies[step])
        assert (tmp_path / str(step) / "metrics.jsonl").read_text() == text(*range(1, step + 1))


def test_copies_over_several_restarts(tmp_path):
    log, copy = MetricsLog(tmp_path), None
    for begin in (0, 3, 6):
        log.restart(begin, copy)
        for step in range(begin + 1, begin + 6):
            log.append(line(step))
            if step == begin + 3:
                copy = log.packed()
    assert (tmp_path / "metrics.jsonl").read_text() == text(*range(1, 12))
    (tmp_path / "metrics.jsonl").unlink()
    MetricsLog(tmp_path).restart(9, copy)
    assert (tmp_path / "metrics.jsonl").read_text() == text(*range(1, 10))


@pytest.mark.parametrize("content", [b"", b"\0" * 300, text(1, 2).encode() + b"\0" * 90, text(1, 3).encode(), None])
def test_the_file_is_restored_and_the_damaged_one_kept(tmp_path, capsys, content):
    log, path = MetricsLog(tmp_path), tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        log.append(line(step))
    copy = log.packed()
    path.write_bytes(content) if content is not None else path.unlink()
    MetricsLog(tmp_path).restart(3, copy)
    assert path.read_text() == text(1, 2, 3)
    said = capsys.readouterr().err
    what = "missing" if content is None else "damaged"
    assert said.startswith(f"warning: {path} is {what}; the lines up to step 3 are restored")
    assert content is None or (tmp_path / "metrics.jsonl.damaged").read_bytes() == content


def test_later_lines_and_half_a_line_are_no_damage(tmp_path, capsys):
    log, path = MetricsLog(tmp_path), tmp_path / "metrics.jsonl"
    for step in (1, 2):
        log.append(line(step))
    copy = log.packed()
    path.write_text(text(1, 2, 3) + '{"step": 4, "lo')
    log.restart(2, copy)
    assert path.read_text() == text(1, 2) and capsys.readouterr().err == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]
