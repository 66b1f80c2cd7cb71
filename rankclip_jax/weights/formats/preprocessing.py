"""How a model wants its images, from and to the files of other libraries.

In `config.model.image`: ``pixel_mean`` and ``pixel_std`` of RGB in [0, 1], and ``resize``, a key of
`data.transforms.RESIZES`. Always bicubic, as low-pass as PIL's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankclip_jax.errors import UserError
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD
from rankclip_jax.weights.formats.reading import read_json

BICUBIC = 3  # PIL's number
HALF = (0.5, 0.5, 0.5)
# What transformers' classes do where their file says nothing.
DEFAULTS = {
    "clip": {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD, "resize": "crop"},
    "siglip": {"pixel_mean": HALF, "pixel_std": HALF, "resize": "squash"},
}
RESIZES = {"shortest": "crop", "squash": "squash"}  # open_clip's names


def read_preprocessor(folder: Path, kind: str, image_size: int) -> dict[str, Any]:
    """What a Hugging Face folder's preprocessor says, in our keys; `kind`'s usual one where there is no file.

    Raises:
      UserError: it does to images what we cannot.
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
            raise UserError(f"{path} sets {switch} to false: images are always resized and normalised here.")
    if given.get("resample", BICUBIC) != BICUBIC:
        raise UserError(f"{path} wants resample={given['resample']}: images are resized bicubically (3) here.")
    usual = DEFAULTS[kind]
    size = given.get("size", image_size)
    edge = size if isinstance(size, int) else size.get("shortest_edge", size.get("height"))
    if edge != image_size:
        raise UserError(f"{path} resizes images to {edge} and the model takes {image_size}: set its size to that.")
    crops = given.get("do_center_crop", kind == "clip") and (isinstance(size, int) or "shortest_edge" in size)
    return {
        "pixel_mean": tuple(given.get("image_mean", usual["pixel_mean"])),
        "pixel_std": tuple(given.get("image_std", usual["pixel_std"])),
        "resize": "crop" if crops else "squash",
    }


def write_preprocessor(image: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Content of ``preprocessor_config.json`` for `config.model.image`."""
    pixels = DEFAULTS["clip"] | dict(image)
    square = {"height": image["image_size"], "width": image["image_size"]}
    crops = pixels["resize"] == "crop"
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
        "image_mean": list(pixels["pixel_mean"]),
        "image_std": list(pixels["pixel_std"]),
    }


def read_preprocess_cfg(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What open_clip's ``preprocess_cfg`` says, in our keys.

    Raises:
      UserError: it does to images what we cannot.
    """
    interpolation, resize = given.get("interpolation", "bicubic"), given.get("resize_mode", "shortest")
    if interpolation != "bicubic" or resize not in RESIZES:
        raise UserError(
            f"{where} wants interpolation={interpolation!r} and resize_mode={resize!r}: here there are bicubic, and "
            f"{' or '.join(RESIZES)}."
        )
    usual = DEFAULTS["clip"]
    mean, std = given.get("mean", usual["pixel_mean"]), given.get("std", usual["pixel_std"])
    return {"pixel_mean": tuple(mean), "pixel_std": tuple(std), "resize": RESIZES[resize]}


def write_preprocess_cfg(image: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's ``preprocess_cfg`` for `config.model.image`."""
    pixels = DEFAULTS["clip"] | dict(image)
    resize = next(theirs for theirs, ours in RESIZES.items() if ours == pixels["resize"])
    statistics = {"mean": list(pixels["pixel_mean"]), "std": list(pixels["pixel_std"])}
    return statistics | {"interpolation": "bicubic", "resize_mode": resize}
