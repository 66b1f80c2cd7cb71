"""Images to the size the towers want: CLIP's evaluation preprocessing, and pipelines of augmentations.

Images come as uint8 [H, W, 3] or from PIL and leave as uint8 [S, S, 3]; they become floats on the device.
Augmentations are named steps joined by ``|``, for example ``"shift(translate=0.1, scale=0.2)|flip|color_jitter"``.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from rankclip_jax.data.images.augmentations import affine, color_jitter, flip, random_resized_crop, recolor, shift
from rankclip_jax.data.images.policies import autoaugment, randaugment
from rankclip_jax.data.images.types import ImageLike, as_array, as_image, height_width
from rankclip_jax.data.pipeline_spec import parse_steps
from rankclip_jax.errors import UserError, lookup

Augment = Callable[[ImageLike, np.random.Generator], np.ndarray]
# Above this ratio of the sides only what the crop keeps is resized: a line of 1 x 20,000 pixels would otherwise
# take gigabytes. Rounding then differs in a last bit here and there.
LONG = 32


def resize_and_crop(image: ImageLike, size: int) -> np.ndarray:
    """CLIP's preprocessing: bicubic resize of the shorter side to `size`, then centre crop.

    The resize is PIL's, which low-passes when it shrinks; the crop's corner is rounded as
    torchvision rounds it. An image that already fits is returned as it is.

    Args:
      image: uint8 [H, W, 3], or a PIL image of mode RGB.
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    height, width = old_height, old_width = height_width(image)
    if min(height, width) != size:
        # torchvision truncates the longer side: int(size * longer / shorter).
        longer = int(size * max(height, width) / min(height, width))
        height, width = (size, longer) if height <= width else (longer, size)
    top, left = round((height - size) / 2), round((width - size) / 2)
    if max(height, width) > LONG * size:
        x, y = old_width / width, old_height / height
        return _resized(image, size, size, (left * x, top * y, (left + size) * x, (top + size) * y))
    if (height, width) != (old_height, old_width):
        image = as_image(image).resize((width, height), Image.Resampling.BICUBIC)
    if isinstance(image, np.ndarray):
        return image[top : top + size, left : left + size]
    return np.asarray(image if height == width else image.crop((left, top, left + size, top + size)))


def squash(image: ImageLike, size: int) -> np.ndarray:
    """SigLIP's preprocessing: bicubic resize of both sides to `size`, whatever their ratio.

    Args:
      image: uint8 [H, W, 3], or a PIL image of mode RGB.
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    if height_width(image) == (size, size):
        return as_array(image)
    return _resized(image, size, size)


def _resized(image: ImageLike, width: int, height: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    return np.asarray(as_image(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


# How an image gets the model's size: `config.model.image.resize`.
RESIZES: dict[str, Callable[[ImageLike, int], np.ndarray]] = {"crop": resize_and_crop, "squash": squash}

AUGMENTATIONS: dict[str, Callable[..., ImageLike]] = {
    "affine": affine,
    "autoaugment": autoaugment,
    "color_jitter": color_jitter,
    "flip": flip,
    "randaugment": randaugment,
    "random_resized_crop": random_resized_crop,
    "recolor": recolor,
    "shift": shift,
}


def make_augment(pipeline: str, size: int, resize: str = "crop") -> Augment:
    """Compile ``"name|name(option=number)|..."`` into one function; ``""`` and ``"none"`` do nothing.

    Whatever the steps do, the result is brought to [size, size, 3] by `resize`, a key of `RESIZES`; put
    `random_resized_crop` first so that the other steps see small images.

    Raises:
      UserError: a step, option or resize is unknown, or the text cannot be read.
    """
    fit = lookup(RESIZES, resize, "resize")
    steps = parse_steps(pipeline, AUGMENTATIONS, "augmentation")
    # The crop is the one step that must know the size in the end.
    steps = [partial(step, size=size) if step.func is random_resized_crop else step for step in steps]

    def augment(image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        for step in steps:
            image = step(image, rng)
        return fit(image, size)

    _try(augment, pipeline)
    return augment


def _try(augment: Augment, pipeline: str) -> None:
    """Find out now whether an option has a value that no image can be changed by."""
    rng = np.random.default_rng(0)
    try:
        for _ in range(8):
            augment(np.full((16, 24, 3), 128, np.uint8), rng)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"augmentation {pipeline!r} fails ({error}): change its options.") from None
