"""Read and write transformers' image processors: ``preprocessor_config.json`` and ``processor_config.json``.

Rescaling and normalisation, ``(x factor - mean) / std``, become one normalisation of RGB in [0, 1]. Names and defaults
are those of transformers 5. In its files a switch that is null is off. It refuses other nulls, and transformers 4 took
the default: so is done here, but for ``resample``, where the versions disagree.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankclip_jax.data.images.resize import FILTERS, Resize, parse_resize
from rankclip_jax.errors import UserError
from rankclip_jax.image_size import Size, height_width_of, size_text
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD
from rankclip_jax.weights.formats.preprocessing import three_numbers
from rankclip_jax.weights.formats.tensor_files import read_json

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
HALF = (0.5, 0.5, 0.5)
# Defaults of the classes; `size` and `crop_size` have the size of the model. "clip" and "siglip" are kinds of models.
CLASSES = {
    "CLIP": {"image_mean": PIXEL_MEAN, "image_std": PIXEL_STD, "do_center_crop": True, "size": "shortest_edge"},
    "Siglip": {"image_mean": HALF, "image_std": HALF, "do_center_crop": False, "size": "square"},
}
OF_KIND = {"clip": "CLIP", "siglip": "Siglip"}
ENDS = tuple(f"{one}{other}" for one in ("ImageProcessor", "FeatureExtractor") for other in ("", "Fast", "Pil"))
# Switches for which only one value is supported.
ONLY = {"do_resize": True, "do_pad": False, "use_square_size": False}
RESAMPLE = {int(filter_): name for name, filter_ in FILTERS.items()}


def read_preprocessor(folder: Path, kind: str, image_size: Size) -> dict[str, Any]:
    """Preprocessing of a folder of transformers, by our keys.

    Args:
      folder: without a preprocessor file, the defaults of `kind` are returned.
      kind: "clip" or "siglip".
      image_size: size of the images that the model reads.

    Raises:
      UserError: it is not supported here, or has another image size.
    """
    path, given = find_processor(folder)
    defaults = CLASSES[_class_of(given, kind, path)]
    for key, wanted in ONLY.items():
        if bool(given.get(key, wanted)) != wanted:
            found, needed = json.dumps(given[key]), json.dumps(wanted)
            raise UserError(f"{path} has {key}={found}: it must be {needed}, or the key be left out.")
    off = {key: False for key, value in given.items() if value is None and key.startswith("do_")}
    given = {key: value for key, value in given.items() if value is not None or key == "resample"} | off
    return _normalisation(given, defaults, path) | {"resize": str(_resize(given, defaults, image_size, path))}


def find_processor(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file that transformers reads, and its content; an empty one if there is no file."""
    path, older = (folder / name for name in PROCESSOR_FILES)
    nested = read_json(path).get("image_processor") if path.is_file() else None
    if isinstance(nested, dict):
        return path, nested
    return older, read_json(older) if older.is_file() else {}


def _class_of(given: Mapping[str, Any], kind: str, path: Path) -> str:
    name = given.get("image_processor_type") or given.get("feature_extractor_type") or f"{OF_KIND[kind]}ImageProcessor"
    for known in CLASSES:
        if name in (f"{known}{end}" for end in ENDS):
            return known
    names = " and ".join(f"{known}ImageProcessor" for known in CLASSES)
    raise UserError(f"{path} has image_processor_type={name!r}: supported are {names}.")


def _normalisation(given: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
    mean, std = (three_numbers(given.get(key, defaults[key]), key, str(path)) for key in ("image_mean", "image_std"))
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1
    if not isinstance(factor, int | float) or not factor > 0 or not math.isfinite(factor):
        raise UserError(f"{path} has rescale_factor={factor!r}: it must be a positive number.")
    if not given.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 1.0 if factor == 1 / 255 else 255 * factor  # of pixels in [0, 1]
    return {"pixel_mean": tuple(x / scale for x in mean), "pixel_std": tuple(x / scale for x in std)}


def _resize(given: Mapping[str, Any], defaults: Mapping[str, Any], image_size: Size, path: Path) -> Resize:
    target = dict(zip(("height", "width"), height_width_of(image_size), strict=True))
    shortest = {"shortest_edge": min(target.values())}
    size = _size(given.get("size", shortest if defaults["size"] == "shortest_edge" else target), given)
    crops = given.get("do_center_crop", defaults["do_center_crop"])
    if set(size) not in (set(shortest), set(target)):
        raise UserError(f"{path} has size={size}: supported are shortest_edge, and height with width.")
    if not crops and "shortest_edge" in size:
        raise UserError(
            f"{path} resizes the shorter edge and does not crop, but the model reads images of one size: set "
            "do_center_crop to true, or give size a height and a width."
        )
    made = _size(given.get("crop_size", target), {"default_to_square": True}) if crops else size
    if made != target:
        read = size_text(image_size)
        raise UserError(f"{path} makes images of {made}, but the model reads {read} pixels: change its size.")
    fit = "crop" if "shortest_edge" in size else "squash"
    return Resize(fit, _side(size, target, path), _filter(given, path), "transformers")


def _side(size: Mapping[str, Any], target: Mapping[str, int], path: Path) -> int:
    """The side that images are resized to before the crop; 0 if it is the size of the crop."""
    sides = set(size.values())
    if size == target or (sides == set(target.values()) and len(sides) == 1):
        return 0
    side = next(iter(sides))
    if len(sides) > 1 or len(set(target.values())) > 1 or type(side) is not int or side < target["height"]:
        raise UserError(
            f"{path} has size={size}, which is not supported with a crop of {target}: use a larger square size."
        )
    return side


def _size(value: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' size as a dict; a list is height and width."""
    if isinstance(value, Mapping):
        return {key: number for key, number in value.items() if number is not None}
    if isinstance(value, list | tuple):
        return dict(zip(("height", "width"), value, strict=False))
    return {"height": value, "width": value} if given.get("default_to_square") else {"shortest_edge": value}


def _filter(given: Mapping[str, Any], path: Path) -> str:
    resample = given.get("resample", int(FILTERS["bicubic"]))
    if not isinstance(resample, int) or resample not in RESAMPLE:
        known = ", ".join(f"{number} ({RESAMPLE[number]})" for number in sorted(RESAMPLE))
        raise UserError(f"{path} has resample={resample!r}: it must be one of {known}.")
    return RESAMPLE[resample]


def write_preprocessor(image: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Content of ``preprocessor_config.json`` for `config.model.image`."""
    square = {"height": image["image_size"], "width": image["image_size"]}
    resize = parse_resize(image["resize"])
    side, crops = resize.side or image["image_size"], resize.fit == "crop"
    return {
        "image_processor_type": f"{OF_KIND[kind]}ImageProcessor",
        "processor_class": f"{OF_KIND[kind]}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side} if crops else {"height": side, "width": side},
        "resample": int(FILTERS[resize.filter]),
        "do_center_crop": crops or side != image["image_size"],
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image["pixel_mean"]),
        "image_std": list(image["pixel_std"]),
    }
