"""The complete config with the meaning of every key: re-exports `rankclip_jax/config/base.py`.

python -m rankclip_jax.train --config=configs/base.py:ViT-B/16,clip --workdir=runs/clip
"""

from rankclip_jax.config.base import get_config

__all__ = ["get_config"]
