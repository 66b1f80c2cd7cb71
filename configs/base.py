"""The complete config, imported from `rankclip_jax/config/base.py`, which explains every key.

python -m rankclip_jax.train --config=configs/base.py:ViT-B/16,clip --workdir=runs/clip
"""

from rankclip_jax.config.base import get_config

__all__ = ["get_config"]
