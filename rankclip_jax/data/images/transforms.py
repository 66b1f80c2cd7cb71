"""Image preprocessing: resize to the model's size, as CLIP or SigLIP does, and pipelines of augmentations.

Input images are uint8 [H, W, 3] or PIL images of mode RGB. Output images are uint8 [S, S, 3]; the model converts them
to floats on the device. A pipeline is a string of augmentations joined by ``|``, for example
``"shift(translate=0.1, scale=0.2)|flip|color_jitter"``.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from rankclip_jax.data.images.augmentations import affine, color_jitter, flip, random_resized_crop, recolor, shift
from rankclip_jax.data.images.policies import autoaugment, randaugment
from rankclip_jax.data.images.types import ImageLike, as_array, as_image, height_width
from rankclip_jax.data.pipeline_spec import parse_pipeline
from rankclip_jax.errors import UserError, lookup

Augment = Callable[[ImageLike, np.random.Generator], np.ndarray]
# If the ratio of the sides is larger, only the region inside the crop is resized: resizing all of 1 x 20,000 pixels
# would take gigabytes. A few values then differ by 1 from a resize of the whole image.
LONG = 32


def resize_and_crop(image: ImageLike, size: int) -> np.ndarray:
    """CLIP's preprocessing to uint8 [size, size, 3]: bicubic resize of the shorter side to `size`, then centre crop.

    Equal to torchvision's `Resize` and `CenterCrop` on PIL images: PIL applies a low-pass filter before it shrinks an
    image, and the corner of the crop is rounded in the same way. An image of this size is returned unchanged.
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
    """SigLIP's preprocessing to uint8 [size, size, 3]: bicubic resize that does not keep the aspect ratio."""
    return as_array(image) if height_width(image) == (size, size) else _resized(image, size, size)


def _resized(image: ImageLike, width: int, height: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    return np.asarray(as_image(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


# Values of `config.model.image.resize`.
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
    """Compile ``"name|name(option=number)|..."`` into one function; ``""`` and ``"none"`` only resize.

    Args:
      pipeline: augmentations in order. Put `random_resized_crop` first: the others are faster on small images.
      size: side of the output in pixels.
      resize: a key of `RESIZES`, applied after the augmentations.

    Raises:
      UserError: an augmentation, option or resize is unknown, an option is invalid, or the text cannot be parsed.
    """
    fit = lookup(RESIZES, resize, "resize")
    augmentations = parse_pipeline(pipeline, AUGMENTATIONS, "augmentation")
    # Only the crop needs the output size.
    augmentations = [partial(f, size=size) if f.func is random_resized_crop else f for f in augmentations]

    def augment(image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        for augmentation in augmentations:
            image = augmentation(image, rng)
        return fit(image, size)

    _try(augment, pipeline)
    return augment


def _try(augment: Augment, pipeline: str) -> None:
    """Run the pipeline on a small image: an invalid option is an error now, and not later in a loader thread."""
    rng = np.random.default_rng(0)
    try:
        for _ in range(8):
            augment(np.full((16, 24, 3), 128, np.uint8), rng)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"augmentation {pipeline!r} fails ({error}): change its options.") from None
