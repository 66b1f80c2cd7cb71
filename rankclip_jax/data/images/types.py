"""The two forms of a decoded image, and the way from one to the other."""

import numpy as np
from PIL import Image

ImageLike = np.ndarray | Image.Image  # uint8 [H, W, 3], or of mode RGB
WHITE = 255


def as_array(image: ImageLike) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return image if isinstance(image, np.ndarray) else np.asarray(image)


def as_image(image: ImageLike) -> Image.Image:
    """A PIL image of mode RGB."""
    return Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image


def height_width(image: ImageLike) -> tuple[int, int]:
    """Size in pixels, as numpy orders it."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def check_image(image: ImageLike) -> None:
    """Refuse anything but 8-bit RGB.

    Raises:
      ValueError: says what was found.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected a uint8 [H, W, 3] image, found {image.dtype} {image.shape}")
    elif image.mode != "RGB":
        raise ValueError(f"expected an image of mode RGB, found {image.mode}")
