"""The two forms of a decoded picture, and the way from one to the other."""

import numpy as np
from PIL import Image

Picture = np.ndarray | Image.Image  # uint8 [H, W, 3], or of mode RGB
WHITE = 255


def as_array(picture: Picture) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture)


def as_picture(picture: Picture) -> Image.Image:
    """A PIL picture of mode RGB."""
    return Image.fromarray(np.ascontiguousarray(picture)) if isinstance(picture, np.ndarray) else picture


def height_width(picture: Picture) -> tuple[int, int]:
    """Size in pixels, as numpy orders it."""
    return picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]


def check_picture(picture: Picture) -> None:
    """Refuse anything but 8-bit RGB.

    Raises:
      ValueError: says what was found.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"expected a uint8 [H, W, 3] picture, found {picture.dtype} {picture.shape}")
    elif picture.mode != "RGB":
        raise ValueError(f"expected a picture of mode RGB, found {picture.mode}")
