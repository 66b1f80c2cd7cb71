"""Read and write image preprocessing in the files of other libraries.

`config.model.image` describes it by ``pixel_mean`` and ``pixel_std`` of RGB in [0, 1], and by ``resize``, a key of
`data.images.transforms.RESIZES`. Resizing is always bicubic with antialiasing, like PIL's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankclip_jax.errors import UserError
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD
from rankclip_jax.models.presets import SIGLIP_PIXELS
from rankclip_jax.weights.formats.tensor_files import read_json

BICUBIC = 3  # PIL's constant
# Defaults of transformers' classes.
DEFAULTS = {"clip": {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD, "resize": "crop"}, "siglip": SIGLIP_PIXELS}
RESIZES = {"shortest": "crop", "squash": "squash"}  # open_clip's name: ours


def read_preprocessor(folder: Path, kind: str, image_size: int) -> dict[str, Any]:
    """Preprocessing of a Hugging Face folder, by our keys.

    Args:
      folder: without a preprocessor file, the defaults of `kind` are returned.
      kind: "clip" or "siglip".
      image_size: side of the images that the model reads.

    Raises:
      UserError: it is not supported here, or has another image size.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        given = read_json(path)
    elif (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        given = read_json(path).get("image_processor", {})
    else:
        return dict(DEFAULTS[kind])
    for switch in ("do_resize", "do_rescale", "do_normalize"):
        if not given.get(switch, True):
            raise UserError(f"{path} has {switch}=false: images are always resized and normalised here.")
    if given.get("resample", BICUBIC) != BICUBIC:
        raise UserError(f"{path} has resample={given['resample']}: only bicubic (3) is supported.")
    defaults = DEFAULTS[kind]
    size = given.get("size", image_size)
    edge = size if isinstance(size, int) else size.get("shortest_edge", size.get("height"))
    if edge != image_size:
        raise UserError(f"{path} resizes images to {edge}, but the model reads {image_size}: change its size.")
    crops = given.get("do_center_crop", kind == "clip") and (isinstance(size, int) or "shortest_edge" in size)
    return {
        "pixel_mean": tuple(given.get("image_mean", defaults["pixel_mean"])),
        "pixel_std": tuple(given.get("image_std", defaults["pixel_std"])),
        "resize": "crop" if crops else "squash",
    }


def write_preprocessor(image: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Content of ``preprocessor_config.json`` for `config.model.image`."""
    square = {"height": image["image_size"], "width": image["image_size"]}
    crops = image["resize"] == "crop"
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    return {
        "image_processor_type": f"{name}ImageProcessor",
        "processor_class": f"{name}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image["image_size"]} if crops else square,
        "resample": BICUBIC,
        "do_center_crop": crops,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image["pixel_mean"]),
        "image_std": list(image["pixel_std"]),
    }


def read_preprocess_cfg(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Preprocessing in open_clip's ``preprocess_cfg``, by our keys.

    Raises:
      UserError: it is not supported here.
    """
    interpolation, resize = given.get("interpolation", "bicubic"), given.get("resize_mode", "shortest")
    if interpolation != "bicubic" or resize not in RESIZES:
        raise UserError(
            f"{where} has interpolation={interpolation!r} and resize_mode={resize!r}: supported are bicubic, and "
            f"{' or '.join(RESIZES)}."
        )
    mean, std = given.get("mean", PIXEL_MEAN), given.get("std", PIXEL_STD)
    return {"pixel_mean": tuple(mean), "pixel_std": tuple(std), "resize": RESIZES[resize]}


def write_preprocess_cfg(image: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's ``preprocess_cfg`` for `config.model.image`."""
    resize = next(theirs for theirs, ours in RESIZES.items() if ours == image["resize"])
    statistics = {"mean": list(image["pixel_mean"]), "std": list(image["pixel_std"])}
    return statistics | {"interpolation": "bicubic", "resize_mode": resize}
