"""Model sizes by name. A preset is the whole of `config.model`; any field may be overridden."""

from ml_collections import ConfigDict

from rankclip_jax.errors import lookup


def _vit(image_size, patch_size, width, layers, heads, activation="quick_gelu"):
    return {
        "tower": "vit",
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "layers": layers,
        "heads": heads,
        "activation": activation,
        "remat": False,
    }


def _convnet(image_size, patch_size, widths, depths):
    return {
        "tower": "convnet",
        "image_size": image_size,
        "patch_size": patch_size,
        "widths": widths,
        "depths": depths,
    }


def _text(context_length, width, layers, heads, activation="quick_gelu"):
    return {
        "tower": "text_transformer",
        "context_length": context_length,
        "width": width,
        "layers": layers,
        "heads": heads,
        "activation": activation,
        "remat": False,
    }


# name: (embed_dim, image tower, text tower)
PRESETS = {
    # For tests: compiles in seconds.
    "mu": (16, _vit(64, 16, 32, 2, 2), _text(16, 32, 2, 2)),
    # For the embedded pictures on a laptop CPU.
    "emoji": (256, _convnet(64, 4, (64, 128), (1, 1)), _text(16, 96, 1, 4)),
    "ViT-S/16": (384, _vit(224, 16, 384, 12, 6), _text(77, 384, 12, 6)),
    "ViT-B/32": (512, _vit(224, 32, 768, 12, 12), _text(77, 512, 12, 8)),
    "ViT-B/16": (512, _vit(224, 16, 768, 12, 12), _text(77, 512, 12, 8)),
}


def get_preset(name: str) -> ConfigDict:
    """`config.model` for a model of this name: towers, embedding size, compute dtype.

    Raises:
      UserError: no such preset; the message lists those there are.
    """
    embed_dim, image, text = lookup(PRESETS, name, "model preset")
    return ConfigDict({"name": name, "embed_dim": embed_dim, "dtype": "float32", "image": image, "text": text})
