"""Read and write open_clip's image preprocessing, ``preprocess_cfg``.

`config.model.image` describes preprocessing by ``pixel_mean`` and ``pixel_std`` of RGB in [0, 1], and by ``resize``,
the text that `data.images.resize` reads.
"""

import math
from collections.abc import Mapping
from typing import Any

from rankclip_jax.data.images.resize import Resize, parse_resize
from rankclip_jax.errors import UserError
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD

FITS = {"shortest": "crop", "squash": "squash"}  # open_clip's name: ours
FILTERS = ("bicubic", "bilinear", "random")  # "random" is for training, and bicubic otherwise


def read_preprocess_cfg(given: Mapping[str, Any], where: str, image_size: int | tuple[int, int]) -> dict[str, Any]:
    """Preprocessing in open_clip's ``preprocess_cfg``, by our keys.

    Args:
      given: the section; keys that are missing or null have open_clip's defaults.
      where: the file, for messages.
      image_size: input size of the image tower. open_clip resizes to it, whatever ``size`` says.

    Raises:
      UserError: it is not supported here.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{where} has preprocess_cfg={given!r}: it must be an object with mean, std and so on.")
    given = {key: value for key, value in given.items() if value is not None}
    filter_, fit = given.get("interpolation", "bicubic"), given.get("resize_mode", "shortest")
    if filter_ not in FILTERS or fit not in tuple(FITS):
        raise UserError(
            f"{where} has interpolation={filter_!r} and resize_mode={fit!r}: supported are {', '.join(FILTERS)}, and "
            f"{' or '.join(FITS)}."
        )
    # For images that are not square, open_clip ignores the interpolation of "shortest".
    always_bicubic = filter_ == "random" or (isinstance(image_size, tuple) and fit == "shortest")
    return {
        "pixel_mean": three_numbers(given.get("mean", PIXEL_MEAN), "mean", where),
        "pixel_std": three_numbers(given.get("std", PIXEL_STD), "std", where),
        "resize": str(Resize(FITS[fit], filter="bicubic" if always_bicubic else filter_, library="open_clip")),
    }


def write_preprocess_cfg(image: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's ``preprocess_cfg`` for `config.model.image`.

    Raises:
      UserError: open_clip has no such preprocessing.
    """
    resize = parse_resize(image["resize"])
    if resize.side or resize.filter not in FILTERS:
        raise UserError(
            f"open_clip cannot prepare images by model.image.resize={image['resize']!r}: it has {', '.join(FILTERS)}, "
            "and resizes to the size of the crop."
        )
    fit = next(theirs for theirs, ours in FITS.items() if ours == resize.fit)
    statistics = {"mean": list(image["pixel_mean"]), "std": list(image["pixel_std"])}
    return statistics | {"interpolation": resize.filter, "resize_mode": fit}


def three_numbers(value: Any, key: str, where: str) -> tuple[float, ...]:
    """One number for each channel; a single number is used for all three.

    Raises:
      UserError: it is something else.
    """
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(values) != 3 or not all(type(x) in (int, float) and math.isfinite(x) for x in values):
        raise UserError(f"{where} has {key}={value!r}: it must be one number, or three for red, green and blue.")
    return values
