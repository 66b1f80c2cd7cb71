"""Fit position embeddings to another image size or context length.

Letters: T tokens, D width, L context length.
"""

import math
from typing import Any

import jax
import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.image_size import Size, height_width_of, size_text

Array = Any  # numpy or jax


def resize_grid(grid_HWD: Array, size: tuple[int, int]) -> np.ndarray:
    """Resample a grid of vectors, float [H, W, D], to `size` (height, width).

    Bicubic (Keys, a = -0.5) with half-pixel centres and antialiasing. This is PyTorch's
    `interpolate(mode="bicubic", antialias=True, align_corners=False)`, which open_clip and timm use.
    """
    shape = (*size, grid_HWD.shape[-1])
    return np.asarray(jax.image.resize(grid_HWD, shape, "cubic", antialias=True))


def fit_image_positions(
    positions_TD: Array, image_size: Size, patch_size: int, class_token: bool, old_size: Size
) -> np.ndarray:
    """Fit position embeddings to another image size.

    Args:
      positions_TD: float [T, D], a grid row by row.
      image_size, patch_size: the new sizes; the patch size divides the image size.
      class_token: whether the first row belongs to a class token; this row is not changed.
      old_size: image size of the given positions.

    Returns:
      float [T', D]; the given values if the size is the same.

    Raises:
      UserError: the positions are not a grid of the old size.
    """
    first = int(class_token)
    patches, width = positions_TD.shape[0] - first, positions_TD.shape[1]
    old, new = (tuple(side // patch_size for side in height_width_of(size)) for size in (old_size, image_size))
    if patches != math.prod(old):
        which = " after the class token's" if class_token else ""
        raise UserError(
            f"{patches} position embeddings{which} are not the {math.prod(old)} of images of {size_text(old_size)} "
            f"pixels: use weights for model.image.patch_size={patch_size}."
        )
    if old == new:
        return np.asarray(positions_TD)
    grid = resize_grid(positions_TD[first:].reshape(*old, width), new)
    return np.concatenate([np.asarray(positions_TD[:first]), grid.reshape(math.prod(new), width)])


def fit_text_positions(positions_LD: Array, context_length: int) -> np.ndarray:
    """The first `context_length` rows of float [L, D].

    Raises:
      UserError: `context_length` is larger than L.
    """
    if context_length > positions_LD.shape[0]:
        raise UserError(
            f"model.text.context_length={context_length} is more than the {positions_LD.shape[0]} positions of the "
            f"weights: use at most {positions_LD.shape[0]}."
        )
    return np.asarray(positions_LD[:context_length])
