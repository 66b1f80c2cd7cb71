"""The files that the report reads: of any size, and one line for each kind of damage."""

import numpy as np
import pytest

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.errors import UserError
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, write_embeddings
from rankclip_jax.report import run_folder, write_report
from rankclip_jax.report.run_folder import read_run
from tests.report.test_page import unit, write_embeddings_of, write_history


def test_one_long_caption_does_not_make_the_file_large(tmp_path):
    """Strings of a fixed width would take 4 bytes times 100,000 characters times 25,000 captions: 10 GB."""
    n, rng = 25_000, np.random.default_rng(0)
    texts = ("x" * 100_000, *map(str, range(1, n)))
    ids = np.arange(n) % 5
    split = EvalSplit("test", rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8), np.arange(5), texts, ids)
    path = write_embeddings(tmp_path, SplitEmbeddings(unit(rng, 5, 4), unit(rng, n, 4)), split)
    assert path.stat().st_size < 2_000_000
    assert read_run(tmp_path).split.texts == texts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[1]", "config.json is damaged .it is a list instead of an object"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read .it is a folder.: restore it, or move it away"),
        (EVAL_FILE, '{"step": 1, "metrics": {"val/a": "high"}}', "metrics.val/a is a text instead of a number"),
        (EVAL_FILE, '{"step": 1, "metrics": 3}', "metrics is a whole number instead of an object"),
        ("eval_on/x.json", "{", "eval_on/x.json is damaged"),
        (EMBEDDINGS_FILE, "not a zip file", "embeddings.npz is damaged"),
        (EMBEDDINGS_FILE, "", "embeddings.npz is damaged"),
    ],
)
def test_damaged_files_are_user_errors(tmp_path, name, content, said):
    write_history(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_arrays_that_would_fill_the_memory_are_not_read(tmp_path, monkeypatch):
    write_embeddings_of(tmp_path)
    monkeypatch.setattr(run_folder, "LARGEST", 1 << 10)
    with pytest.raises(UserError, match=r"embeddings\.npz is damaged \(it would take 0 MiB of memory\)"):
        write_report(tmp_path)


def test_arrays_that_do_not_fit_are_user_errors(tmp_path):
    write_embeddings_of(tmp_path)
    with np.load(tmp_path / EMBEDDINGS_FILE) as kept:
        arrays = dict(kept)
    labels, images = arrays["group/text_labels"], arrays["image_embeds"]
    changes = {
        "text_ids is int64 .30., or differs from the others in length": {"text_ids": arrays["text_ids"][:-1]},
        "image_ids is float": {"image_ids": arrays["image_ids"] / 2},
        "a label of group is outside its 3 classes": {"group/text_labels": labels + 1},
        "image_embeds is float16 .30.": {"image_embeds": images[:, 0]},
        "embeddings differ in width": {"image_embeds": images[:, :-1]},
        "thumbnails have no size": {"columns": np.asarray(0)},
        "Expecting value": {"strings": arrays["strings"][:0]},
        "strings.texts is a text": {"strings": np.frombuffer(b'{"split": "x", "texts": "x"}', np.uint8)},
        "Object arrays cannot be loaded": {"image_ids": np.array([{}] * 30)},
    }
    for said, change in changes.items():
        np.savez(tmp_path / EMBEDDINGS_FILE, **arrays | change)
        with pytest.raises(UserError, match=rf"embeddings\.npz is damaged \(.*{said}.*\); run the evaluation again"):
            write_report(tmp_path)
