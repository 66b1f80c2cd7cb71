"""RankCLIP or another objective on the embedded images, from scratch, on a laptop CPU.

    python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/emoji

After a colon: an objective (configs/emoji.py:clip), "mu" for a test run of seconds, or both (configs/emoji.py:mu,clip).
"""

from ml_collections import ConfigDict

from rankclip_jax.config import base


def get_config(variant: str = "rankclip") -> ConfigDict:
    """`variant` is the name of an objective, "mu" (a tiny model, a few steps), or "mu,NAME"."""
    size, _, objective = variant.rpartition(",") if variant != "mu" else ("mu", "", "rankclip")
    config = base.get_config(size or "emoji", objective)
    config.duration = "800 steps"
    config.allow_cpu = True  # the model is small enough
    config.data.augment = "affine|recolor"  # test_style has a drawing style that is not in training
    config.eval.report_split = "test_style"
    config.tokenizer = {"name": "bpe", "vocab_size": 2048}
    config.optimizer.learning_rate = 3e-3
    if size == "mu":
        config.batch_size = 32
        config.duration = "20 steps"
        config.data.train_limit = 256
        config.log.every = "5 steps"
    return config
