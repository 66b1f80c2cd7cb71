"""RankCLIP on the embedded pictures, from scratch on a laptop CPU.

    python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/emoji

`:mu` is the same run at the size of a test; `:clip` trains with CLIP's loss alone.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "rankclip") -> ConfigDict:
    """Variants: "rankclip", "clip", and "mu" (tiny, a few steps)."""
    config = base.get_config("mu" if variant == "mu" else "emoji")
    config.duration = "800 steps"
    config.data.augment = "affine|recolor"  # test_style is drawn by a hand never seen in training
    config.tokenizer = {"name": "bpe", "vocab_size": 2048}
    config.optimizer.learning_rate = 3e-3
    if variant == "clip":
        config.objective.name = "clip"
    if variant == "mu":
        config.batch_size = 32
        config.duration = "20 steps"
        config.data.train_limit = 256
        config.log.every = "5 steps"
    return config
