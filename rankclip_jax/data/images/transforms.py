"""Pipelines of augmentations, which end with the resize to the model's size.

Input images are uint8 [H, W, 3] or PIL images. Output images are uint8 [S, S, 3]; the model converts them to floats on
the device. A pipeline is a string of augmentations joined by ``|``, for example
``"shift(translate=0.1, scale=0.2)|flip|color_jitter"``.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from rankclip_jax.data.images.augmentations import affine, color_jitter, flip, random_resized_crop, recolor, shift
from rankclip_jax.data.images.policies import autoaugment, randaugment
from rankclip_jax.data.images.resize import make_resize
from rankclip_jax.data.images.types import ImageLike
from rankclip_jax.data.pipeline_spec import parse_pipeline
from rankclip_jax.errors import UserError
from rankclip_jax.image_size import Size

Augment = Callable[[ImageLike, np.random.Generator], np.ndarray]
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


def make_augment(pipeline: str, size: Size, resize: str = "crop") -> Augment:
    """Compile ``"name|name(option=number)|..."`` into one function; ``""`` and ``"none"`` only resize.

    Args:
      pipeline: augmentations in order. Put `random_resized_crop` first: the others are faster on small images.
      size: side of the output in pixels, or (height, width).
      resize: `config.model.image.resize`, applied after the augmentations. It also decides how images become RGB.

    Raises:
      UserError: an augmentation, option or resize is unknown, an option is invalid, or the text cannot be parsed.
    """
    fit = make_resize(resize, size)
    augmentations = parse_pipeline(pipeline, AUGMENTATIONS, "augmentation")
    # Only the crop needs the output size.
    augmentations = [partial(f, size=size) if f.func is random_resized_crop else f for f in augmentations]

    def augment(image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        image = fit.to_rgb(image) if augmentations else image
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
