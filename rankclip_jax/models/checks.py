"""Checks of `config.model`: an invalid value is rejected with one line before anything is built."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.image_size import height_width_of
from rankclip_jax.models import resnet, text, vit
from rankclip_jax.models.transformer import ACTIVATIONS, REMAT
from rankclip_jax.trees import flatten

# Valid values of an option: for every tower that has it, and for one kind of tower.
CHOICES = {"activation": ACTIVATIONS, "remat": REMAT}
CHOICES_OF_TOWER = {
    "vit": {"pool": vit.POOLS},
    "resnet": {"batch_norm": resnet.BATCH_NORMS},
    "text_transformer": {"pool": text.POOLS},
}
SWITCHES = ("pre_norm", "patch_bias", "projection", "causal", "projection_bias")


def checked_options(side: str, tower: str, options: Mapping[str, Any], embed_dim: int) -> dict[str, Any]:
    """Check the options of one tower, and turn lists into tuples.

    Args:
      side: "image" or "text".
      tower: a key of `two_towers.TOWERS`.
      options: fields of the tower's class. Towers have different options.
      embed_dim: size of the embeddings; features that are not projected must have this size.

    Raises:
      UserError: an invalid value, or one that contradicts another option.
    """
    options = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in options.items()}
    for name, choices in (CHOICES | CHOICES_OF_TOWER.get(tower, {})).items():
        if name in options:
            lookup(dict.fromkeys(choices), str(options[name]), f"model.{side}.{name}")
    for name in SWITCHES:
        if name in options and not isinstance(options[name], bool):
            raise UserError(f"model.{side}.{name}={options[name]!r} must be True or False.")
    if not 0 <= options.get("layer_scale", 0) <= 1:
        raise UserError(f"model.{side}.layer_scale={options['layer_scale']} must be from 0 (none) to 1.")
    if "ln_eps" in options and not 0 < options["ln_eps"] < 1:
        raise UserError(f"model.{side}.ln_eps={options['ln_eps']} must be a small positive number, such as 1e-5.")
    if "patch_dropout" in options and not 0 <= options["patch_dropout"] < 1:
        raise UserError(f"model.{side}.patch_dropout={options['patch_dropout']} must be at least 0 and less than 1.")
    if options.get("projection") is False and options["width"] != embed_dim:
        raise UserError(
            f"model.{side}.projection=False leaves features of width {options['width']}, and model.embed_dim is "
            f"{embed_dim}: make them equal, or set projection=True."
        )
    return options


def checked_pixels(image: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """`model.image.pixel_mean` or `pixel_std`: one number each for red, green and blue.

    Raises:
      UserError: not three numbers, or a standard deviation that is not positive.
    """
    values = tuple(image[name])
    if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise UserError(f"model.image.{name}={values} must be three numbers, for red, green and blue in [0, 1].")
    if name == "pixel_std" and min(values) <= 0:
        raise UserError(f"model.image.{name}={values} must be positive: pixels are divided by it.")
    return values


def check_sizes(config: ConfigDict) -> None:
    """Check the integers of `config.model`.

    Raises:
      UserError: a size that is too small, or does not divide another one.
    """
    image, text = config.image, config.text
    for key, value in flatten(config):
        least = 0 if key.endswith(".mlp_width") else 1  # 0 means four times the width
        if type(value) is int and value < least:
            raise UserError(f"model.{key}={value} must be at least {least}.")
    _check_image_size(image)
    if image.tower == "resnet":
        _check_resnet(image)
    for side, tower in (("image", image), ("text", text)):
        if tower.tower in ("vit", "text_transformer") and tower.width % tower.heads:
            raise UserError(f"model.{side}.heads={tower.heads} does not divide model.{side}.width={tower.width}.")


def _check_image_size(image: ConfigDict) -> None:
    size = image.image_size
    pair = height_width_of(size) if isinstance(size, int) or len(size) == 2 else ()
    if not pair or not all(type(side) is int and side > 0 for side in pair):
        raise UserError(f"model.image.image_size={size} must be a number of pixels, at least 1, or (height, width).")
    if pair[0] != pair[1] and image.tower != "vit":
        raise UserError(f"model.image.image_size={size} is not square: only the tower vit reads such images.")
    # Weights of SigLIP for 384 pixels have patches of 14: the last 6 pixels are not read, in no library.
    patch = image.get("patch_size", 1)
    if any(side < patch or 2 * (side % patch) >= patch > 1 for side in pair):
        raise UserError(f"model.image.patch_size={patch} does not divide model.image.image_size={size}.")


def _check_resnet(image: ConfigDict) -> None:
    reduction = resnet.REDUCTION
    if len(image.layers) != 4 or min(image.layers) < 1:
        raise UserError(
            f"model.image.layers={tuple(image.layers)} must be the numbers of blocks of four stages, at least 1 each."
        )
    if image.image_size % reduction:
        raise UserError(f"model.image.image_size={image.image_size} must be a multiple of {reduction} for a ResNet.")
    if image.width % 2:
        raise UserError(f"model.image.width={image.width} must be even: the stem has half as many channels.")
    if reduction * image.width % image.heads:
        raise UserError(
            f"model.image.heads={image.heads} does not divide the {reduction * image.width} channels of the last "
            f"feature map ({reduction} times model.image.width)."
        )
