"""AutoAugment and RandAugment: randomly drawn image operations (Cubuk et al. 2018 and 2019).

    AutoAugment: Learning Augmentation Policies from Data, arXiv 1805.09501, the ImageNet policy in table 9
    RandAugment: Practical automated data augmentation with a reduced search space, arXiv 1909.13719

Operations, ranges and policy equal torchvision's `AutoAugment` and `RandAugment`, computed by Pillow. The range of an
operation has equal steps, and a magnitude is the index of a step: 0 to 9 for AutoAugment, 0 to 30 for RandAugment.
Geometric operations use nearest-neighbour interpolation and fill with black. Both directions are equally probable.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from rankclip_jax.data.images.types import ImageLike, as_image
from rankclip_jax.errors import UserError

MAX_SHEAR = 0.3
MAX_TRANSLATE = 150 / 331  # fraction of a side
MAX_ROTATE = 30.0  # degrees
MAX_ENHANCE = 0.9  # brightness, colour, contrast, sharpness: factors from 0.1 to 1.9
AUTOAUGMENT_MAX, RANDAUGMENT_MAX = 9, 30  # the largest magnitudes


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    """Output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f), with `coefficients` (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)


def _move(side: int, strength: float) -> int:
    return int(MAX_TRANSLATE * side * strength)


# Operations take an image and `strength`, a fraction of the largest magnitude: in [-1, 1] for SIGNED operations, which
# have a direction, and in [0, 1] for UNSIGNED operations.
SIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "shear_x": lambda image, strength: _affine(image, (1, MAX_SHEAR * strength, 0, 0, 1, 0)),
    "shear_y": lambda image, strength: _affine(image, (1, 0, 0, MAX_SHEAR * strength, 1, 0)),
    "translate_x": lambda image, strength: _affine(image, (1, 0, -_move(image.width, strength), 0, 1, 0)),
    "translate_y": lambda image, strength: _affine(image, (1, 0, 0, 0, 1, -_move(image.height, strength))),
    "rotate": lambda image, strength: image.rotate(MAX_ROTATE * strength, Image.Resampling.NEAREST),
    "brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + MAX_ENHANCE * strength),
    "color": lambda image, strength: ImageEnhance.Color(image).enhance(1 + MAX_ENHANCE * strength),
    "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + MAX_ENHANCE * strength),
    "sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + MAX_ENHANCE * strength),
}
UNSIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * strength)),
    "solarize": lambda image, strength: ImageOps.solarize(image, 255 * (1 - strength)),
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "invert": lambda image, strength: ImageOps.invert(image),
}
RANDAUGMENT_OPERATIONS = tuple(name for name in SIGNED | UNSIGNED if name != "invert")

# Table 9: pairs of (operation, probability, magnitude from 0 to 9).
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


def operate(image: Image.Image, name: str, strength: float, direction: float) -> Image.Image:
    """Apply one operation with a strength in [0, 1] and a direction, 1 or -1, which `UNSIGNED` operations ignore."""
    return SIGNED[name](image, strength * direction) if name in SIGNED else UNSIGNED[name](image, strength)


def randaugment(image: ImageLike, rng: np.random.Generator, *, n: float = 2, magnitude: float = 9) -> Image.Image:
    """Apply `n` random operations, drawn with equal probability, at the same magnitude: 0 to 30, the largest.

    Raises:
      UserError: `n` or `magnitude` is out of range.
    """
    if not 0 <= magnitude <= RANDAUGMENT_MAX or n < 0:
        raise UserError(f"randaugment(n={n:g}, magnitude={magnitude:g}): magnitude must be from 0 to 30, n at least 0.")
    image = as_image(image)
    for _ in range(int(n)):
        name = RANDAUGMENT_OPERATIONS[rng.integers(len(RANDAUGMENT_OPERATIONS))]
        image = operate(image, name, magnitude / RANDAUGMENT_MAX, _direction(rng))
    return image


def autoaugment(image: ImageLike, rng: np.random.Generator) -> Image.Image:
    """Apply one of the 25 pairs of operations that AutoAugment found for ImageNet."""
    image = as_image(image)
    for name, probability, magnitude in IMAGENET_POLICY[rng.integers(len(IMAGENET_POLICY))]:
        apply, direction = rng.random() < probability, _direction(rng)
        if apply:
            image = operate(image, name, magnitude / AUTOAUGMENT_MAX, direction)
    return image


def _direction(rng: np.random.Generator) -> float:
    return math.copysign(1, rng.random() - 0.5)
