"""Evaluation at the end of training: splits that the last step has evaluated are not evaluated again."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from rankclip_jax.data.records import Dataset, EvalSplit, RecordSource
from rankclip_jax.evals.evaluate_dataset import evaluate_run, evaluate_splits


class Counting:
    """Encodes to fixed random vectors, and counts the images."""

    def __init__(self):
        self.images = 0

    def encode_image(self, images):
        self.images += len(images)
        return np.eye(8, dtype=np.float32)[images[:, 0, 0, 0]]

    def encode_text(self, texts):
        return np.eye(8, dtype=np.float32)[[int(text) % 7 for text in texts]]


def dataset():
    ids = np.arange(8)
    images = np.zeros((8, 4, 4, 3), np.uint8) + ids[:, None, None, None].astype(np.uint8)
    texts = tuple(map(str, ids))
    splits = {name: EvalSplit(name, images[:n], ids[:n], texts[:n], ids[:n]) for name, n in (("val", 5), ("test", 8))}
    return Dataset("digits", RecordSource(), splits, "00", {})


@pytest.mark.parametrize("shown", ["val", "test"])
def test_a_split_is_evaluated_once(tmp_path, shown):
    encoder, data, config = Counting(), dataset(), ConfigDict({"metrics": ["retrieval"], "report_split": shown})
    whole = evaluate_run(encoder, data, config, tmp_path / "whole", 7)
    assert encoder.images == 13
    encoder.images = 0
    done = evaluate_splits(encoder, data, ("val",), config.metrics)
    assert evaluate_run(encoder, data, config, tmp_path / "rest", 7, done) == whole
    assert encoder.images == 13
    for name in ("eval.json", "embeddings.npz"):
        assert (tmp_path / "rest" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "rest" / "eval.json").read_text())["step"] == 7
