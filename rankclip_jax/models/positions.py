"""Position embeddings of one size made to fit another: weights of one image size, or text length, used at another.

Letters: T tokens, D width, L context length.
"""

import math
from typing import Any

import jax
import numpy as np

from rankclip_jax.errors import UserError

Array = Any  # of numpy or jax


def resize_grid(grid_HWD: Array, size: tuple[int, int]) -> np.ndarray:
    """A grid of vectors, float [H, W, D], resampled to `size` (height, width).

    Bicubic (Keys, a = -0.5) with half-pixel centres, widened where it shrinks, so that nothing aliases: PyTorch's
    `interpolate(mode="bicubic", antialias=True, align_corners=False)`, as open_clip and timm do it.
    """
    shape = (*size, grid_HWD.shape[-1])
    return np.asarray(jax.image.resize(grid_HWD, shape, "cubic", antialias=True))


def fit_image_positions(positions_TD: Array, image_size: int, patch_size: int, class_token: bool) -> np.ndarray:
    """Positions of a square image's patches, row by row, for images of side `image_size`.

    Args:
      positions_TD: float [T, D], of any square grid; with `class_token` the first is that token's, and stays.
      image_size, patch_size: of the tower they are for; the second divides the first.

    Returns float [T', D]; the same numbers where nothing has to change.

    Raises:
      UserError: the positions are of no square grid.
    """
    first = int(class_token)
    patches, width = positions_TD.shape[0] - first, positions_TD.shape[1]
    old, new = math.isqrt(max(patches, 0)), image_size // patch_size
    if old < 1 or old * old != patches:
        kept = " after the class token's" if class_token else ""
        raise UserError(
            f"{patches} position embeddings{kept} are no square grid of patches: use weights of square images."
        )
    if old == new:
        return np.asarray(positions_TD)
    grid = resize_grid(positions_TD[first:].reshape(old, old, width), (new, new))
    return np.concatenate([np.asarray(positions_TD[:first]), grid.reshape(new * new, width)])


def fit_text_positions(positions_LD: Array, context_length: int) -> np.ndarray:
    """The first `context_length` of float [L, D]: a shorter context reads the same positions.

    Raises:
      UserError: more are wanted than there are.
    """
    if context_length > positions_LD.shape[0]:
        raise UserError(
            f"model.text.context_length={context_length} is more than the {positions_LD.shape[0]} positions that the "
            f"weights know: use {positions_LD.shape[0]} or less."
        )
    return np.asarray(positions_LD[:context_length])
