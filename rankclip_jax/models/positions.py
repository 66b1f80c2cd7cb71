"""Fit position embeddings to another image size or context length.

Letters: T tokens, D width, L context length.
"""

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


def fit_image_positions(
    positions_TD: Array, old: tuple[int, int], new: tuple[int, int], class_token: bool
) -> np.ndarray:
    """Fit the position embeddings of a grid of patches to another grid.

    Args:
      positions_TD: float [T, D], a grid row by row.
      old, new: (rows, columns) of the grids.
      class_token: whether the first row belongs to a class token; this row is not changed.

    Returns:
      float [T', D]; the given values if the grid is the same.

    Raises:
      UserError: the positions are not those of the grid `old`.
    """
    first, width = int(class_token), positions_TD.shape[1]
    if positions_TD.shape[0] - first != old[0] * old[1]:
        which = " after the class token's" if class_token else ""
        raise UserError(
            f"{positions_TD.shape[0] - first} position embeddings{which} are not a grid of {old[0]} x {old[1]} "
            "patches: the weights and their config describe different architectures."
        )
    if old == new:
        return np.asarray(positions_TD)
    grid = resize_grid(positions_TD[first:].reshape(*old, width), new)
    return np.concatenate([np.asarray(positions_TD[:first]), grid.reshape(new[0] * new[1], width)])


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
