"""AutoAugment and RandAugment: operations of fixed kinds, drawn at random (Cubuk et al. 2018 and 2019).

    AutoAugment: Learning Augmentation Policies from Data, arXiv 1805.09501, the ImageNet policy of its table 9
    RandAugment: Practical automated data augmentation with a reduced search space, arXiv 1909.13719

Operations, ranges and policy are those that torchvision's `AutoAugment` and `RandAugment` document: magnitudes are
steps of a range (10 for AutoAugment, 31 for RandAugment), geometry takes the nearest pixel and fills with black,
and what has a direction takes either with equal probability. They are Pillow's operations.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from rankclip_jax.data.images.types import ImageLike, as_image
from rankclip_jax.errors import UserError

LARGEST_SHEAR = 0.3
LARGEST_MOVE = 150 / 331  # of a side
LARGEST_TURN = 30.0  # degrees
LARGEST_CHANGE = 0.9  # of brightness, colour, contrast, sharpness: factors from 0.1 to 1.9
STEPS_OF_AUTOAUGMENT, STEPS_OF_RANDAUGMENT = 9, 30  # from none to the largest


def _transform(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.NEAREST)


def _move(side: int, share: float) -> int:
    return int(LARGEST_MOVE * side * share)


def _posterize(image: Image.Image, share: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * share))


# Each takes an image and a share of the largest magnitude, in [0, 1], or in [-1, 1] where it has a direction.
SIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "shear_x": lambda image, share: _transform(image, 1, LARGEST_SHEAR * share, 0, 0, 1, 0),
    "shear_y": lambda image, share: _transform(image, 1, 0, 0, LARGEST_SHEAR * share, 1, 0),
    "translate_x": lambda image, share: _transform(image, 1, 0, -_move(image.width, share), 0, 1, 0),
    "translate_y": lambda image, share: _transform(image, 1, 0, 0, 0, 1, -_move(image.height, share)),
    "rotate": lambda image, share: image.rotate(LARGEST_TURN * share, Image.Resampling.NEAREST),
    "brightness": lambda image, share: ImageEnhance.Brightness(image).enhance(1 + LARGEST_CHANGE * share),
    "color": lambda image, share: ImageEnhance.Color(image).enhance(1 + LARGEST_CHANGE * share),
    "contrast": lambda image, share: ImageEnhance.Contrast(image).enhance(1 + LARGEST_CHANGE * share),
    "sharpness": lambda image, share: ImageEnhance.Sharpness(image).enhance(1 + LARGEST_CHANGE * share),
}
UNSIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, share: image,
    "posterize": _posterize,
    "solarize": lambda image, share: ImageOps.solarize(image, 255 * (1 - share)),
    "autocontrast": lambda image, share: ImageOps.autocontrast(image),
    "equalize": lambda image, share: ImageOps.equalize(image),
    "invert": lambda image, share: ImageOps.invert(image),
}
OF_RANDAUGMENT = tuple(name for name in SIGNED | UNSIGNED if name != "invert")

# Table 9: pairs of (operation, probability, magnitude of 9).
IMAGENET_POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def operate(image: Image.Image, name: str, share: float, direction: float) -> Image.Image:
    """One operation at a share of its largest magnitude, in [0, 1]; `direction` is 1 or -1."""
    if name in SIGNED:
        return SIGNED[name](image, share * direction)
    return UNSIGNED[name](image, share)


def randaugment(image: ImageLike, rng: np.random.Generator, *, n: float = 2, magnitude: float = 9) -> Image.Image:
    """Apply `n` operations, drawn with equal probability, each at the same magnitude.

    Args:
      image: RGB.
      rng: source of the draw.
      n: how many operations, one after the other.
      magnitude: 0 to 30, as a share of 30 of each operation's range.
    """
    if not 0 <= magnitude <= STEPS_OF_RANDAUGMENT or n < 0:
        raise UserError(f"randaugment(n={n:g}, magnitude={magnitude:g}): magnitude goes from 0 to 30, n from 0 up.")
    image = as_image(image)
    for _ in range(int(n)):
        name = OF_RANDAUGMENT[rng.integers(len(OF_RANDAUGMENT))]
        image = operate(image, name, magnitude / STEPS_OF_RANDAUGMENT, _direction(rng))
    return image


def autoaugment(image: ImageLike, rng: np.random.Generator) -> Image.Image:
    """Apply one of the 25 pairs of operations that AutoAugment found for ImageNet.

    Args:
      image: RGB.
      rng: source of the draw.
    """
    image = as_image(image)
    for name, probability, magnitude in IMAGENET_POLICY[rng.integers(len(IMAGENET_POLICY))]:
        happens, direction = rng.random() < probability, _direction(rng)
        if happens:
            image = operate(image, name, magnitude / STEPS_OF_AUTOAUGMENT, direction)
    return image


def _direction(rng: np.random.Generator) -> float:
    return math.copysign(1, rng.random() - 0.5)
