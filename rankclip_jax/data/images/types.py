"""The two forms of a decoded image, numpy array and PIL image, and conversions between them."""

import numpy as np
from PIL import Image

ImageLike = np.ndarray | Image.Image  # uint8 [H, W, 3], or a PIL image of mode RGB
WHITE = 255


def as_array(image: ImageLike) -> np.ndarray:
    """Return the image as uint8 [H, W, 3]."""
    return image if isinstance(image, np.ndarray) else np.asarray(image)


def as_image(image: ImageLike) -> Image.Image:
    """Return the image as a PIL image of mode RGB."""
    return Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image


def height_width(image: ImageLike) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def check_image(image: ImageLike) -> None:
    """Raise `ValueError` if an image is not 8-bit RGB."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected a uint8 [H, W, 3] image, found {image.dtype} {image.shape}")
    elif image.mode != "RGB":
        raise ValueError(f"expected an image of mode RGB, found {image.mode}")
