"""The two forms of a decoded image, numpy array and PIL image, and conversions between them."""

import numpy as np
from PIL import Image

ImageLike = np.ndarray | Image.Image  # uint8 [H, W, 3], or a PIL image of a mode in `MODES`
# PIL's modes of 8 bits per channel, or less, that it can convert to RGB.
MODES = ("RGB", "L", "RGBA", "P", "LA", "CMYK", "1", "PA", "RGBa", "RGBX", "YCbCr", "HSV")
WHITE = 255


class ImageError(Exception):
    """An image that cannot be used.

    `kind` is "empty", "unidentified", "truncated", "damaged", "too large" or "unknown range".
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def as_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB, converted by Pillow's rules: transparency is dropped."""
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy it


def as_array(image: ImageLike) -> np.ndarray:
    """Return the image as uint8 [H, W, 3]."""
    return image if isinstance(image, np.ndarray) else np.asarray(as_rgb(image))


def as_image(image: ImageLike) -> Image.Image:
    """Return the image as a PIL image of mode RGB."""
    return Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else as_rgb(image)


def height_width(image: ImageLike) -> tuple[int, int]:
    """Return (height, width) in pixels."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def check_image(image: ImageLike) -> None:
    """Raise `ValueError` if an image is neither uint8 [H, W, 3] nor a PIL image of a mode in `MODES`."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected a uint8 [H, W, 3] image, found {image.dtype} {image.shape}")
    elif image.mode not in MODES:
        raise ValueError(f"expected an image of 8 bits per channel, found mode {image.mode}")
