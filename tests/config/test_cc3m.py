"""The config of CC3M: its recipes, its words, and a run of it on tars as img2dataset writes them."""

import json

import pytest

from configs import cc3m_vit_b32
from rankclip_jax.errors import UserError
from rankclip_jax.train import train
from tests.support import tar_files


def test_recipes():
    released, tuned = cc3m_vit_b32.get_config(), cc3m_vit_b32.get_config("tuned,clip")
    assert (released.batch_size, released.duration, released.optimizer.warmup) == (128, "64 epochs", "10000 steps")
    assert (released.optimizer.b2, released.optimizer.eps, released.optimizer.weight_decay) == (0.999, 1e-8, 0.1)
    assert (released.objective.name, tuned.objective.name) == ("rankclip", "clip")
    assert tuned.optimizer.learning_rate == 1e-3 and "random_resized_crop" in tuned.data.augment
    assert released.model == tuned.model
    with pytest.raises(UserError, match="unknown objective 'tunned'"):
        cc3m_vit_b32.get_config("tunned")


def test_it_runs_at_the_size_of_a_test(tmp_path, compile_cache):
    tar_files.write_shards(tmp_path / "cc3m", [40, 30])
    config = cc3m_vit_b32.get_config("runlocal")
    config.data.root = str(tmp_path / "cc3m")
    metrics = train(config, str(tmp_path / "run"))
    assert metrics["val/image_to_text_R@1"] >= 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["data"]["counts"] == {"train": 62, "val": 8}
    assert (tmp_path / "run" / "report.html").exists()
