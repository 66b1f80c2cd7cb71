"""Image and text towers side by side: pictures and tokens in, unit-norm float32 embeddings out.

Letters: B batch, S image side, L context length, D embedding.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.config import flatten
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models.convnet import ConvNet
from rankclip_jax.models.text import TextTransformer
from rankclip_jax.models.transformer import ACTIVATIONS
from rankclip_jax.models.vit import VisionTransformer

# Mean and standard deviation of RGB in [0, 1], as OpenAI's CLIP normalises pictures.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

TOWERS = {
    "vit": VisionTransformer,
    "convnet": ConvNet,
    "text_transformer": TextTransformer,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class TwoTowers(nn.Module):
    """A dual encoder. Normalisation is in float32 whatever the towers compute in."""

    image: nn.Module
    text: nn.Module

    def __call__(self, images: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        """What an objective needs: {"image_embeds": [B, D], "text_embeds": [B, D]}."""
        return {"image_embeds": self.encode_image(images), "text_embeds": self.encode_text(tokens)}

    def encode_image(self, images_BSSC: jax.Array) -> jax.Array:
        """uint8 [B, S, S, 3] RGB to unit-norm float32 [B, D]."""
        pixels = images_BSSC.astype(jnp.float32) / 255.0
        return unit_norm(self.image((pixels - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)))

    def encode_text(self, tokens_BL: jax.Array) -> jax.Array:
        """Token ids, int32 [B, L], to unit-norm float32 [B, D]."""
        return unit_norm(self.text(tokens_BL))


def unit_norm(features: jax.Array) -> jax.Array:
    """Rows of length 1 in float32; a row of zeros stays zero, with a finite gradient."""
    features = features.astype(jnp.float32)
    squared = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def build_towers(config: ConfigDict, vocab_size: int, eot_id: int) -> TwoTowers:
    """Build both towers of `config` (a preset of `models/presets.py`, perhaps with changed fields).

    The vocabulary's size and its end-of-text id come from the tokenizer.

    Raises:
      UserError: an unknown tower or dtype, or sizes that do not go together.
    """
    dtype = lookup(DTYPES, config.dtype, "model.dtype")
    shared = {"embed_dim": config.embed_dim, "dtype": dtype}
    _check_sizes(config)
    return TwoTowers(
        image=_build_tower("image", config.image, shared),
        text=_build_tower("text", config.text, {**shared, "vocab_size": vocab_size, "eot_id": eot_id}),
    )


def _build_tower(side: str, config: ConfigDict, given: dict) -> nn.Module:
    """The tower that `config` names, with the rest of `config` as its fields; `given` are those not in it."""
    options = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in config.items()}
    name = options.pop("tower")
    tower = lookup(TOWERS, name, f"model.{side}.tower")
    fields = {f.name: f for f in dataclasses.fields(tower) if f.init and f.name not in ("parent", "name", *given)}
    for option in options:
        lookup(fields, option, f"key of the {name} tower, model.{side}:")
    missing = [f.name for f in fields.values() if f.default is dataclasses.MISSING and f.name not in options]
    if missing:
        raise UserError(f"model.{side}.tower={name!r} needs model.{side}.{missing[0]}: add it, or choose a preset.")
    if "activation" in options:
        lookup(ACTIVATIONS, options["activation"], f"model.{side}.activation")
    return tower(**options, **given)


def _check_sizes(config: ConfigDict) -> None:
    image, text = config.image, config.text
    for key, value in flatten(config):
        if type(value) is int and value < 1:
            raise UserError(f"model.{key}={value} must be at least 1.")
    if "patch_size" in image and image.image_size % image.patch_size:
        raise UserError(
            f"model.image.patch_size={image.patch_size} does not divide model.image.image_size={image.image_size}."
        )
    for name, tower in (("image", image), ("text", text)):
        if tower.tower in ("vit", "text_transformer") and tower.width % tower.heads:
            raise UserError(f"model.{name}.heads={tower.heads} does not divide model.{name}.width={tower.width}.")
