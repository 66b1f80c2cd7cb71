"""Resizing to the input size of an image tower, as the library that the weights come from does it.

`config.model.image.resize` is a text with up to four parts, for example ``"crop,256,bilinear,transformers"``:

* the fit, a key of `FITS`;
* the side in pixels that images are resized to before the centre crop, if it is not the input size;
* the filter, a key of `FILTERS`, if it is not bicubic;
* the library whose rules apply, a key of `LIBRARIES`, if they are not this package's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rankclip_jax.data.images.types import WHITE, ImageLike, as_image, as_rgb, height_width
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.image_size import Size, height_width_of

FITS = {"crop": "the shorter side is resized", "squash": "both sides are resized"}
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
# If the ratio of the sides is larger, only the region inside the crop is resized: resizing all of 1 x 20,000 pixels
# would take gigabytes. A few values then differ by 1 from a resize of the whole image.
LONG = 32


class Rules(NamedTuple):
    """How a library prepares images.

    Attributes:
      rgb_first: whether images become RGB before the resize, or after it: Pillow resizes a palette without filter, and
        colours weighted by their opacity.
      on_white: whether transparent images are laid on white; if not, transparency is dropped.
      round_down: whether half a pixel in the corner of the crop is rounded down, or to the even number.
    """

    rgb_first: bool
    on_white: bool
    round_down: bool


LIBRARIES = {
    "": Rules(rgb_first=True, on_white=False, round_down=False),
    "open_clip": Rules(rgb_first=False, on_white=False, round_down=False),  # OpenAI's code too
    "transformers": Rules(rgb_first=True, on_white=True, round_down=True),
}


@dataclass(frozen=True)
class Resize:
    """One way of resizing; call it with an image and the size of the result.

    Attributes:
      fit: a key of `FITS`.
      side: resize to this side, then crop the centre; 0 for the side of the result.
      filter: a key of `FILTERS`. All of them but "nearest" are low-pass filters if the image shrinks.
      library: a key of `LIBRARIES`.
    """

    fit: str = "crop"
    side: int = 0
    filter: str = "bicubic"
    library: str = ""

    def __str__(self) -> str:
        side, filter_ = str(self.side or ""), "" if self.filter == "bicubic" else self.filter
        return ",".join(filter(None, (self.fit, side, filter_, self.library)))

    def to_rgb(self, image: ImageLike) -> ImageLike:
        """Return an array unchanged, and a PIL image in mode RGB."""
        if isinstance(image, np.ndarray):
            return image
        transparent = image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info
        if transparent and LIBRARIES[self.library].on_white:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (WHITE,) * 4), layer)
        return as_rgb(image)

    def __call__(self, image: ImageLike, size: Size) -> np.ndarray:
        """Return uint8 [height, width, 3]. An array or RGB image of this size is returned unchanged."""
        rules, (height, width) = LIBRARIES[self.library], height_width_of(size)
        image = self.to_rgb(image) if rules.rgb_first else image
        old_height, old_width = height_width(image)
        new_height, new_width = self._resized((old_height, old_width), size)
        half = (lambda pixels: pixels // 2) if rules.round_down else (lambda pixels: round(pixels / 2))
        top, left = half(new_height - height), half(new_width - width)
        if max(new_height / height, new_width / width) > LONG:
            x, y = old_width / new_width, old_height / new_height
            box = (left * x, top * y, (left + width) * x, (top + height) * y)
            return np.asarray(as_rgb(self._filtered(image, (height, width), box)))
        if (new_height, new_width) != (old_height, old_width):
            image = self._filtered(image, (new_height, new_width))
        if isinstance(image, np.ndarray):
            return image[top : top + height, left : left + width]
        if (new_height, new_width) != (height, width):
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(as_rgb(image))

    def _resized(self, old: tuple[int, int], size: Size) -> tuple[int, int]:
        """Height and width after the resize, before the crop."""
        height, width = height_width_of(self.side or size)
        if self.fit == "squash":
            return height, width
        if height == width:  # torchvision truncates the longer side
            side, longer = height, int(height * max(old) / min(old))
            return (side, longer) if old[0] <= old[1] else (longer, side)
        ratio = min(old[0] / height, old[1] / width)
        return round(old[0] / ratio), round(old[1] / ratio)

    def _filtered(self, image: ImageLike, size: tuple[int, int], box: tuple[float, ...] | None = None) -> Image.Image:
        image = as_image(image) if isinstance(image, np.ndarray) else image
        return image.resize(size[::-1], FILTERS[self.filter], box=box)


def parse_resize(text: str) -> Resize:
    """Read `config.model.image.resize`; `UserError` if a part is unknown."""
    fit, *parts = (part.strip() for part in str(text).split(","))
    lookup(FITS, fit, "resize")
    options: dict[str, Any] = {}
    for part in parts:
        if part.isdecimal() and int(part):
            options["side"] = int(part)
        else:
            options[lookup(_PARTS, part, f"part of model.image.resize={text!r},")] = part
    return Resize(fit, **options)


_PARTS: Mapping[str, str] = dict.fromkeys(FILTERS, "filter") | dict.fromkeys(filter(None, LIBRARIES), "library")


def make_resize(text: str, size: Size) -> Resize:
    """`parse_resize`, with a check that images are not resized to less than `size`."""
    resize = parse_resize(text)
    if resize.side and (not isinstance(size, int) or resize.side < size):
        raise UserError(
            f"model.image.resize={text!r} resizes to {resize.side} pixels, and the tower reads {size}: set "
            f"model.image.resize={resize.fit} or another number."
        )
    return resize


def resize_and_crop(image: ImageLike, size: Size) -> np.ndarray:
    """CLIP's preprocessing to uint8 [size, size, 3]: bicubic resize of the shorter side to `size`, then centre crop.

    Equal to torchvision's `Resize` and `CenterCrop` on RGB images. PIL applies a low-pass filter before it shrinks.
    """
    return Resize()(image, size)
