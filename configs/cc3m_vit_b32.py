"""ViT-B/32 on CC3M, downloaded by img2dataset: the paper's main setting, with any objective.

    python -m rankclip_jax.train --config=configs/cc3m_vit_b32.py --config.data.root=DIR --workdir=runs/cc3m

DIR holds 00000.tar, 00001.tar ... (see docs/data.md). After a colon, write words joined by commas: a recipe, an
objective, "runlocal" for a test run. For example, configs/cc3m_vit_b32.py:tuned,clip is CLIP with the tuned recipe.
"""

from ml_collections import ConfigDict

from rankclip_jax.config import base
from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import get_preset

RECIPES = {
    # Defaults of RankCLIP's and CyCLIP's released code, with the batch of all GPUs together. In that code the schedule
    # begins one epoch late, so there is no warm-up at this batch. Here there is.
    "released": {"learning_rate": 5e-4, "warmup": "10000 steps", "b2": 0.999, "eps": 1e-8},
    # open_clip issue 448: 18.5 to 19 % on ImageNet with RN50 (paper: 12.1). 10,000 steps of warm-up were too many.
    "tuned": {"learning_rate": 1e-3, "warmup": "2000 steps"},
}


def get_config(variant: str = "released") -> ConfigDict:
    """The released recipe and RankCLIP, unless words in `variant` name others."""
    words = [word for word in dict.fromkeys(variant.split(",")) if word not in ("", "runlocal")]
    recipe, *more_recipes = [word for word in words if word in RECIPES] or ["released"]
    objective, *more_objectives = [word for word in words if word not in RECIPES] or ["rankclip"]
    if more_recipes or more_objectives:
        raise UserError(f"configs/cc3m_vit_b32.py:{variant} must name at most one recipe and one objective.")
    config = base.get_config("ViT-B/32", objective)
    config.optimizer.update(RECIPES[recipe])
    config.batch_size, config.duration = {"released": (128, "64 epochs"), "tuned": (1024, "30 epochs")}[recipe]
    config.data.augment = {"released": "none", "tuned": "random_resized_crop"}[recipe]
    config.data.update({"name": "webdataset", "train": "{00000..00331}.tar", "val_pairs": 2000})
    if "runlocal" in variant.split(","):
        config.model, config.tokenizer = get_preset("mu"), {"name": "bpe", "vocab_size": 512}
        config.data.update({"train": "*.tar", "val_pairs": 8})
        config.batch_size, config.duration, config.optimizer.warmup = 16, "8 steps", "2 steps"
    return config
