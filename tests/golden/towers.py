"""Small CLIP-style and SigLIP-style towers; `make_towers` stored PyTorch's results for them.

Weights and inputs come from numpy's legacy generator, whose values never change, so only the results are stored.
"""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np

from rankclip_jax.models import presets
from rankclip_jax.models.two_towers import TwoTowers, build_towers

VOCAB, EOT, ROWS = 64, 63, 3
SMALL_IMAGE = {"image_size": 32, "patch_size": 8, "width": 32}
# Changes of the preset "mu". Values that differ from CLIP's are exaggerated, so that their effect is large.
OTHER = {"activation": "gelu", "mlp_width": 48, "ln_eps": 0.01}
CASES = {
    "clip": {"embed_dim": 16, "image": SMALL_IMAGE, "text": {"width": 24}},
    "clip_other": {"embed_dim": 16, "image": SMALL_IMAGE | OTHER, "text": {"width": 24} | OTHER},
    "siglip": {
        "embed_dim": 32,
        "image": SMALL_IMAGE | presets.SIGLIP_IMAGE | presets.SIGLIP_PIXELS | {"mlp_width": 48, "ln_eps": 1e-3},
        "text": {"width": 24} | presets.SIGLIP_TEXT | {"mlp_width": 40, "ln_eps": 1e-3},
    },
}


def path() -> Path:
    return Path(__file__).parent / "towers.json"


@functools.cache
def golden() -> dict:
    return json.loads(path().read_text())


def config(case: str):
    """The preset "mu" with the changes of the case."""
    model = presets.get_preset("mu")
    model.update(CASES[case])
    return model


def towers(case: str) -> TwoTowers:
    return build_towers(config(case), VOCAB, EOT)


def inputs(case: str) -> dict[str, np.ndarray]:
    """Images, and texts padded with zeros: one ends early, one late, one has two end-of-text tokens."""
    draw, model = np.random.RandomState(1), config(case)
    side, length = model.image.image_size, model.text.context_length
    tokens = draw.randint(1, EOT, (ROWS, length)).astype(np.int32)
    tokens[0, 5], tokens[0, 6:], tokens[1, 4], tokens[:, -1] = EOT, 0, EOT, EOT
    return {"images": draw.randint(0, 256, (ROWS, side, side, 3)).astype(np.uint8), "tokens": tokens}


def directions(case: str) -> dict[str, np.ndarray]:
    """Directions: the gradient of the sum of their products with the embeddings is compared."""
    draw, shape = np.random.RandomState(2), (ROWS, CASES[case]["embed_dim"])
    return {name: draw.normal(size=shape).astype(np.float32) for name in ("image_embeds", "text_embeds")}


def params(case: str) -> dict:
    """Values of every leaf in the order of paths, large enough that attention is far from uniform."""
    given = inputs(case)
    shapes = jax.eval_shape(towers(case).init, jax.random.key(0), given["images"], given["tokens"])["params"]
    draw = np.random.RandomState(0)

    def leaf(keys, like):
        values, name = draw.normal(size=like.shape), keys[-1].key
        if name in ("scale", "bias"):
            values = 0.2 * values + (name == "scale")
        elif name == "kernel":  # kernels of blocks have a first axis of layers, the patch kernel has three input axes
            fan_in = math.prod(like.shape[:-1]) if keys[-2].key == "conv1" else like.shape[-2]
            values = 1.5 * values / math.sqrt(fan_in)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def flat(tree) -> dict[str, np.ndarray]:
    return {"/".join(key.key for key in keys): leaf for keys, leaf in jax.tree.leaves_with_path(tree)}
