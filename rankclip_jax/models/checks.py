"""What `config.model.image` and `config.model.text` may say, refused in one line before anything is built."""

from collections.abc import Mapping
from typing import Any

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models import resnet, text, vit
from rankclip_jax.models.transformer import ACTIVATIONS, REMAT

# Values an option may have, for every tower that has the option, and for one tower.
CHOICES = {"activation": ACTIVATIONS, "remat": REMAT}
CHOICES_OF = {
    "vit": {"pool": vit.POOLS},
    "resnet": {"batch_norm": resnet.BATCH_NORMS},
    "text_transformer": {"pool": text.POOLS},
}


def checked_options(side: str, tower: str, options: Mapping[str, Any], embed_dim: int) -> dict[str, Any]:
    """Options of a tower as its class wants them.

    Args:
      side: "image" or "text".
      tower: a key of `two_towers.TOWERS`.
      options: the tower's section of the config.
      embed_dim: of the embedding space.

    Raises:
      UserError: a value that is none of those there are, or does not go with the others.
    """
    options = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in options.items()}
    for name, choices in (CHOICES | CHOICES_OF.get(tower, {})).items():
        if name in options:
            lookup(dict.fromkeys(choices), str(options[name]), f"model.{side}.{name}")
    for name in ("pre_norm", "patch_bias", "projection", "causal", "projection_bias"):
        if not isinstance(options.get(name, True), bool):
            raise UserError(f"model.{side}.{name}={options[name]!r} must be True or False.")
    if not 0 < options.get("ln_eps", 1e-5) < 1:
        raise UserError(f"model.{side}.ln_eps={options['ln_eps']} must be a small positive number, such as 1e-5.")
    if not 0 <= options.get("patch_dropout", 0) < 1:
        raise UserError(f"model.{side}.patch_dropout={options['patch_dropout']} must be 0 or more, and less than 1.")
    if not options.get("projection", True) and options["width"] != embed_dim:
        raise UserError(
            f"model.{side}.projection=False leaves features of width {options['width']}, and model.embed_dim is "
            f"{embed_dim}: make them equal, or project."
        )
    return options


def checked_pixels(image: Mapping[str, Any], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """`model.image.pixel_mean` or `pixel_std`: a number for each of red, green and blue."""
    values = tuple(image.get(name, default))
    if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise UserError(f"model.image.{name}={values} must be three numbers, for red, green and blue in [0, 1].")
    if name == "pixel_std" and min(values) <= 0:
        raise UserError(f"model.image.{name}={values} must be positive: pixels are divided by it.")
    return values
