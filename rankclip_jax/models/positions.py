"""Fit position embeddings to another image size or context length.

Letters: T tokens, D width, L context length.
"""

import math
from typing import Any

import jax
import numpy as np

from rankclip_jax.errors import UserError

Array = Any  # numpy or jax


def resize_grid(grid_HWD: Array, size: tuple[int, int]) -> np.ndarray:
    """Resample a grid of vectors, float [H, W, D], to `size` (height, width).

    Bicubic (Keys, a = -0.5) with half-pixel centres and antialiasing. This is PyTorch's
    `interpolate(mode="bicubic", antialias=True, align_corners=False)`, which open_clip and timm use.
    """
    shape = (*size, grid_HWD.shape[-1])
    return np.asarray(jax.image.resize(grid_HWD, shape, "cubic", antialias=True))


def fit_image_positions(positions_TD: Array, image_size: int, patch_size: int, class_token: bool) -> np.ndarray:
    """Fit the position embeddings of square images to another image size.

    Args:
      positions_TD: float [T, D], a square grid row by row.
      image_size, patch_size: the new sizes; the patch size divides the image size.
      class_token: whether the first row belongs to a class token; this row is not changed.

    Returns:
      float [T', D]; the given values if the size is the same.

    Raises:
      UserError: the positions are not a square grid.
    """
    first = int(class_token)
    patches, width = positions_TD.shape[0] - first, positions_TD.shape[1]
    old, new = math.isqrt(max(patches, 0)), image_size // patch_size
    if old < 1 or old * old != patches:
        which = " after the class token's" if class_token else ""
        raise UserError(
            f"{patches} position embeddings{which} are not a square grid of patches: use weights for square images."
        )
    if old == new:
        return np.asarray(positions_TD)
    grid = resize_grid(positions_TD[first:].reshape(old, old, width), (new, new))
    return np.concatenate([np.asarray(positions_TD[:first]), grid.reshape(new * new, width)])


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
