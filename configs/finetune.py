"""Fine-tuning on the embedded images: begin with given weights, their towers and their tokenizer.

    python -m rankclip_jax.train --config=configs/finetune.py:runs/imported --workdir=runs/finetuned

After the colon: a run folder, an imported folder, a weights file, or a hub id; see docs/weights.md.
"""

from ml_collections import ConfigDict

from rankclip_jax.config import base
from rankclip_jax.errors import UserError
from rankclip_jax.inference.load import read_model_config


def get_config(source: str = "") -> ConfigDict:
    """The default recipe with the towers of `source`, and a small learning rate, which preserves what they learned."""
    if not source:
        raise UserError("configs/finetune.py needs weights: --config=configs/finetune.py:FOLDER, FILE or hub id.")
    config = base.get_config()
    config.model = read_model_config(source)
    config.init_from = source
    config.tokenizer.name = "from_weights"
    config.optimizer.learning_rate = 1e-5
    config.duration = "5 epochs"
    return config
