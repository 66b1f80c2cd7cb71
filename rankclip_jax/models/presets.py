"""Model sizes by name. A preset is the whole of `config.model`; any field may be overridden."""

from ml_collections import ConfigDict

from rankclip_jax.errors import lookup
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD

# CLIP's values of what SigLIP and others have otherwise. 0 for mlp_width is 4 widths.
OF_BOTH = {"activation": "quick_gelu", "mlp_width": 0, "ln_eps": 1e-5, "remat": "none"}
OF_VIT = OF_BOTH | {"pool": "class", "pre_norm": True, "patch_bias": False, "projection": True, "patch_dropout": 0.0}
OF_TEXT = OF_BOTH | {"causal": True, "pool": "first_eot", "projection_bias": False}
# Of any tower; "" for dtype is model.dtype.
OF_ANY_IMAGE = {"dtype": "", "pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD, "resize": "crop"}
OF_ANY_TEXT = {"dtype": ""}
SIGLIP = {"activation": "gelu_tanh", "ln_eps": 1e-6}
SIGLIP_IMAGE = SIGLIP | {"pool": "map", "pre_norm": False, "patch_bias": True, "projection": False}
SIGLIP_TEXT = SIGLIP | {"causal": False, "pool": "last", "projection_bias": True}
HALF = (0.5, 0.5, 0.5)
SIGLIP_PIXELS = {"pixel_mean": HALF, "pixel_std": HALF, "resize": "squash"}


def _vit(image_size, patch_size, width, layers, heads, **changes):
    sizes = {"image_size": image_size, "patch_size": patch_size, "width": width, "layers": layers, "heads": heads}
    return {"tower": "vit"} | sizes | OF_VIT | _remat(layers) | changes


def _text(context_length, width, layers, heads, **changes):
    sizes = {"context_length": context_length, "width": width, "layers": layers, "heads": heads}
    return {"tower": "text_transformer"} | sizes | OF_TEXT | _remat(layers) | changes


def _remat(layers):
    """Deep towers keep their linear maps' outputs only: on CPU ViT-B/32 takes a tenth less time, half the memory."""
    return {"remat": "dots" if layers > 2 else "none"}


def _convnet(image_size, patch_size, widths, depths):
    return {
        "tower": "convnet",
        "image_size": image_size,
        "patch_size": patch_size,
        "widths": widths,
        "depths": depths,
    }


def _resnet(image_size, width, layers, heads):
    return {
        "tower": "resnet",
        "image_size": image_size,
        "width": width,
        "layers": layers,
        "heads": heads,
        "batch_norm": "global",  # or "local", of each device's rows
    }


# Distribution heads of objectives that need them, by preset: (prototypes, width and number of hidden layers).
HEADS = {"mu": (32, 32, 1), "mu-rn": (32, 32, 1), "emoji": (256, 256, 1)}
LARGE_HEADS = (32_768, 4096, 2)  # as we remember nCLIP's

# name: (embed_dim, image tower, text tower)
PRESETS = {
    # For tests: compiles in seconds.
    "mu": (16, _vit(64, 16, 32, 2, 2), _text(16, 32, 2, 2)),
    "mu-rn": (16, _resnet(64, 8, (1, 2, 1, 1), 4), _text(16, 32, 2, 2)),
    # For the embedded images on a laptop CPU.
    "emoji": (256, _convnet(64, 4, (64, 128), (1, 1)), _text(16, 96, 1, 4)),
    # The smallest of the family.
    "ViT-Ti/16": (192, _vit(224, 16, 192, 12, 3), _text(77, 192, 12, 3)),
    "ViT-S/16": (384, _vit(224, 16, 384, 12, 6), _text(77, 384, 12, 6)),
    "ViT-B/32": (512, _vit(224, 32, 768, 12, 12), _text(77, 512, 12, 8)),
    "ViT-B/16": (512, _vit(224, 16, 768, 12, 12), _text(77, 512, 12, 8)),
    "ViT-L/14": (768, _vit(224, 14, 1024, 24, 16), _text(77, 768, 12, 12)),
    "ViT-L/14-336": (768, _vit(336, 14, 1024, 24, 16), _text(77, 768, 12, 12)),
    # As open_clip has it, and LAION trained it.
    "ViT-H/14": (1024, _vit(224, 14, 1280, 32, 16, activation="gelu"), _text(77, 1024, 24, 16, activation="gelu")),
    "RN50": (1024, _resnet(224, 64, (3, 4, 6, 3), 32), _text(77, 512, 12, 8)),
    "RN101": (512, _resnet(224, 64, (3, 4, 23, 3), 32), _text(77, 512, 12, 8)),
    "RN50x4": (640, _resnet(288, 80, (4, 6, 10, 6), 40), _text(77, 640, 12, 10)),
    "SigLIP-B/16": (
        768,
        _vit(224, 16, 768, 12, 12, **SIGLIP_IMAGE, **SIGLIP_PIXELS),
        _text(64, 768, 12, 12, **SIGLIP_TEXT),
    ),
}


def get_preset(name: str) -> ConfigDict:
    """`config.model` for a model of this name: towers, embedding size, compute dtype, distribution heads.

    `heads` costs nothing unless the objective needs it. `embeds` is what the trained model encodes to:
    "projection", CLIP's; "distribution", of the heads; "" for what the objective trains. Where `image.dtype` or
    `text.dtype` is not "", that tower computes in it, not in `dtype`.

    Raises:
      UserError: no such preset; the message lists those there are.
    """
    embed_dim, image, text = lookup(PRESETS, name, "model preset")
    heads = dict(zip(("prototypes", "hidden_width", "hidden_layers"), HEADS.get(name, LARGE_HEADS), strict=True))
    model = {"name": name, "embed_dim": embed_dim, "dtype": "float32", "heads": heads, "embeds": ""}
    return ConfigDict(model | {"image": OF_ANY_IMAGE | image, "text": OF_ANY_TEXT | text})
