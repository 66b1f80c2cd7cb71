"""The config of CC3M: its recipes and its words."""

import pytest

from configs import cc3m_vit_b32
from rankclip_jax.errors import UserError


def test_recipes():
    released, tuned = cc3m_vit_b32.get_config(), cc3m_vit_b32.get_config("tuned,clip")
    assert (released.batch_size, released.duration, released.optimizer.warmup) == (128, "64 epochs", "10000 steps")
    assert (released.optimizer.b2, released.optimizer.eps, released.optimizer.weight_decay) == (0.999, 1e-8, 0.1)
    assert (released.objective.name, tuned.objective.name) == ("rankclip", "clip")
    assert tuned.optimizer.learning_rate == 1e-3 and "random_resized_crop" in tuned.data.augment
    assert released.model == tuned.model
    with pytest.raises(UserError, match="unknown objective 'tunned'"):
        cc3m_vit_b32.get_config("tunned")


@pytest.mark.parametrize("words", ["released,tuned", "clip,rankclip", "tuned,clip,siglip,runlocal"])
def test_at_most_one_word_of_each_kind(words):
    with pytest.raises(UserError, match=f"cc3m_vit_b32.py:{words} must name at most one recipe and one objective"):
        cc3m_vit_b32.get_config(words)
