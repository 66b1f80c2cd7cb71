"""Operations of a train step, counted from the shapes of the towers.

Letters: P patches, T tokens, D width.
"""

from ml_collections import ConfigDict


def train_flops(model: ConfigDict) -> float:
    """Floating-point operations of one pair, forward and backward; 0 if a tower is no transformer.

    Matrix products only, two operations each for multiply and add, and a backward pass twice the forward one.
    What rematerialisation does again is not counted: it is no use to the model.
    """
    image, text = model.image, model.text
    if image.tower != "vit":
        return 0.0
    patches = (image.image_size // image.patch_size) ** 2
    embedding = 2 * patches * 3 * image.patch_size**2 * image.width
    projections = 2 * (image.width + text.width) * model.embed_dim
    forward = embedding + _blocks(image, patches + 1) + _blocks(text, text.context_length) + projections
    return 3.0 * forward


def _blocks(tower: ConfigDict, tokens: int) -> float:
    """12 D^2 weights in a block's products, and the two T x T x D products of attention."""
    return tower.layers * (2 * tokens * 12 * tower.width**2 + 4 * tokens**2 * tower.width)
