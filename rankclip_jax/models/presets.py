"""Model sizes by name. A preset is a complete `config.model`; any field may be overridden."""

from ml_collections import ConfigDict

from rankclip_jax.errors import lookup
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD

# Keys of every tower, whatever its kind. A dtype of "" means `model.dtype`.
IMAGE_DEFAULTS = {"dtype": "", "pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD, "resize": "crop"}
TEXT_DEFAULTS = {"dtype": ""}
# CLIP's defaults for the options of transformer towers. An mlp_width of 0 means 4 times the width.
CLIP_BLOCKS = {"activation": "quick_gelu", "mlp_width": 0, "ln_eps": 1e-5, "layer_scale": 0.0, "remat": "none"}
SIGLIP_BLOCKS = {"activation": "gelu_tanh", "ln_eps": 1e-6}
# Options in which the architectures of CLIP and SigLIP differ.
TRAITS = {
    "clip": {
        "image": {"pool": "class", "pre_norm": True, "patch_bias": False, "projection": True, "projection_bias": False},
        "text": {"causal": True, "pool": "first_eot", "projection": True, "projection_bias": False},
    },
    "siglip": {
        "image": {"pool": "map", "pre_norm": False, "patch_bias": True, "projection": False, "projection_bias": False},
        "text": {"causal": False, "pool": "last", "projection": True, "projection_bias": True},
    },
}
CLIP_IMAGE = CLIP_BLOCKS | TRAITS["clip"]["image"] | {"patch_dropout": 0.0}
CLIP_TEXT = CLIP_BLOCKS | TRAITS["clip"]["text"]
SIGLIP_IMAGE = SIGLIP_BLOCKS | TRAITS["siglip"]["image"]
SIGLIP_TEXT = SIGLIP_BLOCKS | TRAITS["siglip"]["text"]
SIGLIP_PIXELS = {"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.5, 0.5, 0.5), "resize": "squash"}


def _vit(image_size, patch_size, width, layers, heads, **changes):
    sizes = {"image_size": image_size, "patch_size": patch_size, "width": width, "layers": layers, "heads": heads}
    return {"tower": "vit"} | sizes | CLIP_IMAGE | _remat(layers) | changes


def _text(context_length, width, layers, heads, **changes):
    sizes = {"context_length": context_length, "width": width, "layers": layers, "heads": heads}
    return {"tower": "text_transformer"} | sizes | CLIP_TEXT | _remat(layers) | changes


def _remat(layers):
    """Deep towers keep only outputs of linear layers: on a CPU, ViT-B/32 then needs 10 % less time, half the memory."""
    return {"remat": "dots" if layers > 2 else "none"}


def _convnet(image_size, patch_size, widths, depths):
    sizes = {"image_size": image_size, "patch_size": patch_size, "widths": widths, "depths": depths}
    return {"tower": "convnet"} | sizes


def _resnet(image_size, width, layers, heads):
    sizes = {"image_size": image_size, "width": width, "layers": layers, "heads": heads}
    return {"tower": "resnet"} | sizes | {"batch_norm": "global"}  # or "local": statistics of each device's rows


# Distribution heads, for objectives that use them: (prototypes, hidden width, number of hidden layers).
SMALL_HEADS = {"mu": (32, 32, 1), "mu-rn": (32, 32, 1), "emoji": (256, 256, 1)}
LARGE_HEADS = (32_768, 4096, 2)  # nCLIP's sizes, from memory

# name: (embed_dim, image tower, text tower)
PRESETS = {
    # For tests: compile in seconds.
    "mu": (16, _vit(64, 16, 32, 2, 2), _text(16, 32, 2, 2)),
    "mu-rn": (16, _resnet(64, 8, (1, 2, 1, 1), 4), _text(16, 32, 2, 2)),
    # For the embedded images on a laptop CPU.
    "emoji": (256, _convnet(64, 4, (64, 128), (1, 1)), _text(16, 96, 1, 4)),
    # The smallest preset for photographs.
    "ViT-Ti/16": (192, _vit(224, 16, 192, 12, 3), _text(77, 192, 12, 3)),
    "ViT-S/16": (384, _vit(224, 16, 384, 12, 6), _text(77, 384, 12, 6)),
    "ViT-B/32": (512, _vit(224, 32, 768, 12, 12), _text(77, 512, 12, 8)),
    "ViT-B/16": (512, _vit(224, 16, 768, 12, 12), _text(77, 512, 12, 8)),
    "ViT-L/14": (768, _vit(224, 14, 1024, 24, 16), _text(77, 768, 12, 12)),
    "ViT-L/14-336": (768, _vit(336, 14, 1024, 24, 16), _text(77, 768, 12, 12)),
    # Sizes and activation as LAION trained it with open_clip.
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
    """`config.model` of a named model: towers, embedding size, compute dtype, distribution heads.

    `heads` has no effect unless the objective uses heads. `embeds` selects the embeddings of the trained model: the
    "projection" (CLIP's), the heads' "distribution", or "" for the kind that the objective trains. `image.dtype` and
    `text.dtype` override `dtype` unless they are "". `attention` is "auto" or a key of `attention_forms.FORMS`.

    Raises:
      UserError: an unknown name; the message lists the known ones.
    """
    embed_dim, image, text = lookup(PRESETS, name, "model preset")
    sizes = SMALL_HEADS.get(name, LARGE_HEADS)
    heads = dict(zip(("prototypes", "hidden_width", "hidden_layers"), sizes, strict=True))
    model = {
        "name": name,
        "embed_dim": embed_dim,
        "dtype": "float32",
        "heads": heads,
        "embeds": "",
        "attention": "auto",
    }
    return ConfigDict(model | {"image": IMAGE_DEFAULTS | image, "text": TEXT_DEFAULTS | text})
