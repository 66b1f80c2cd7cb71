"""Floating-point operations of a training step, counted from the shapes of the towers.

Letters: P patches, T tokens, D width.
"""

from ml_collections import ConfigDict

from rankclip_jax.image_size import height_width_of


def train_flops(model: ConfigDict) -> float:
    """Return the floating-point operations of one pair, forward and backward; 0 if the image tower is not a ViT.

    Only matrix products count, with two operations per multiply-add. The backward pass counts as two forward passes.
    Operations that rematerialisation repeats are excluded, as usual for MFU.
    """
    image, text = model.image, model.text
    if image.tower != "vit":
        return 0.0
    height, width = height_width_of(image.image_size)
    patches = (height // image.patch_size) * (width // image.patch_size)
    embedding = 2 * patches * 3 * image.patch_size**2 * image.width
    projections = 2 * (image.width + text.width) * model.embed_dim
    forward = embedding + _blocks(image, patches + 1) + _blocks(text, text.context_length) + projections
    return 3.0 * forward


def _blocks(tower: ConfigDict, tokens: int) -> float:
    """Operations of T tokens: each block has 12 D^2 weights and two T x T x D products of attention."""
    return tower.layers * (2 * tokens * 12 * tower.width**2 + 4 * tokens**2 * tower.width)
