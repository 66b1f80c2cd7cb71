"""Image and text towers side by side: images and tokens in, unit-norm float32 embeddings out.

Letters: B batch, S image side, L context length, D embedding, K prototypes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models.checks import checked_options, checked_pixels
from rankclip_jax.models.convnet import ConvNet
from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD, normalize_pixels
from rankclip_jax.models.resnet import REDUCTION, ModifiedResNet
from rankclip_jax.models.text import TextTransformer
from rankclip_jax.models.vit import VisionTransformer
from rankclip_jax.trees import flatten

TOWERS = {
    "vit": VisionTransformer,
    "convnet": ConvNet,
    "resnet": ModifiedResNet,
    "text_transformer": TextTransformer,
}
# Keys of `config.model.image` and `config.model.text` that are not the tower's own.
NOT_OF_TOWER = ("tower", "dtype", "pixel_mean", "pixel_std", "resize")
HEAD_OPTIONS = ("prototypes", "hidden_width", "hidden_layers")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Output(NamedTuple):
    """How the towers make one of the arrays that objectives read."""

    tower: str  # "image" or "text"
    input: str  # key of the batch
    kind: str  # "embeds": the projection, float32 [B, D] of unit norm; "logits": of the head, float32 [B, K]


# Every array that an objective may need, by name.
OUTPUTS = {
    "image_embeds": Output("image", "images", "embeds"),
    "text_embeds": Output("text", "tokens", "embeds"),
    "caption_embeds": Output("text", "caption_tokens", "embeds"),
    "image_embeds_augmented": Output("image", "augmented_images", "embeds"),
    "text_embeds_augmented": Output("text", "augmented_tokens", "embeds"),
    "image_logits": Output("image", "images", "logits"),
    "text_logits": Output("text", "tokens", "logits"),
}
# What a trained model encodes images and texts to, and the array that must have been trained for it.
EMBEDS = {"projection": "image_embeds", "distribution": "image_logits"}


class TwoTowers(nn.Module):
    """A dual encoder. Normalisation is in float32 whatever the towers compute in.

    Parameters exist for what is computed when they are made: of the heads, for objectives that need logits.

    Attributes:
      image, text: the towers.
      image_head, text_head: from what a tower projects to the logits of a distribution.
      embeds: what `encode_image` and `encode_text` give, a key of `EMBEDS`.
      pixel_mean, pixel_std: how images are normalised, in [0, 1], for red, green and blue.
      resize: how images of other sizes are brought to the model's, a key of `data.transforms.RESIZES`.
    """

    image: nn.Module
    text: nn.Module
    image_head: nn.Module | None = None
    text_head: nn.Module | None = None
    embeds: str = "projection"
    pixel_mean: tuple[float, ...] = PIXEL_MEAN
    pixel_std: tuple[float, ...] = PIXEL_STD
    resize: str = "crop"

    def __call__(self, images: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        """What most objectives need: {"image_embeds": [B, D], "text_embeds": [B, D]}."""
        return self.compute(("image_embeds", "text_embeds"), {"images": images, "tokens": tokens})

    def compute(
        self, inputs: Sequence[str], batch: Mapping[str, jax.Array], train: bool = False, locked: Sequence[str] = ()
    ) -> dict[str, jax.Array]:
        """The arrays `inputs`, keys of `OUTPUTS`, from a batch; each of its inputs goes through its tower once.

        With `train` the towers drop what they drop in training, and normalise with the statistics of what they
        are given; running statistics are updated by each input of a tower in turn. Not those that are `locked`
        ("image", "text", "image_head", "text_head"): they run as in evaluation.
        """
        names: dict[tuple[str, str], dict[str, str]] = {}
        for name in inputs:
            tower, given, kind = OUTPUTS[name]
            names.setdefault((tower, given), {})[kind] = name
        found = {}
        for (tower, given), of_kind in names.items():
            made = self._run(tower, batch[given], "logits" in of_kind, train, locked)
            found |= {name: made[kind] for kind, name in of_kind.items()}
        return found

    def encode_image(self, images_BSSC: jax.Array) -> jax.Array:
        """uint8 [B, S, S, 3] RGB to unit-norm float32 [B, D], or [B, K]; see `distribution_embeds`."""
        return self._encode("image", images_BSSC)

    def encode_text(self, tokens_BL: jax.Array) -> jax.Array:
        """Token ids, int32 [B, L], to unit-norm float32 [B, D], or [B, K]."""
        return self._encode("text", tokens_BL)

    def image_features(self, images_BSSC: jax.Array) -> jax.Array:
        """uint8 [B, S, S, 3] RGB to float32 [B, D], not normalised: what `encode_image` gives, with its length.

        Of a model that encodes to distributions, what their head reads.
        """
        x = normalize_pixels(images_BSSC, self.pixel_mean, self.pixel_std)
        if self.embeds == "distribution":
            return self.image(x, with_trunk=True)[1].astype(jnp.float32)
        return self.image(x).astype(jnp.float32)

    def _encode(self, tower: str, x: jax.Array) -> jax.Array:
        if self.embeds == "distribution":
            return distribution_embeds(self._run(tower, x, heads=True)["logits"])
        return self._run(tower, x, heads=False)["embeds"]

    def _run(
        self, tower: str, x: jax.Array, heads: bool, train: bool = False, locked: Sequence[str] = ()
    ) -> dict[str, jax.Array]:
        run, head = (self.image, self.image_head) if tower == "image" else (self.text, self.text_head)
        x = normalize_pixels(x, self.pixel_mean, self.pixel_std) if tower == "image" else x
        in_tower, in_head = (train and part not in locked for part in (tower, f"{tower}_head"))
        if not heads:
            return {"embeds": unit_norm(run(x, train=in_tower))}
        features, trunk = run(x, with_trunk=True, train=in_tower)
        return {"embeds": unit_norm(features), "logits": head(trunk, train=in_head)}


def distribution_embeds(logits_BK: jax.Array) -> jax.Array:
    """Square roots of the probabilities, float32 [B, K] of unit norm.

    The cosine of two of them is sum_k sqrt(p_k q_k), the Bhattacharyya coefficient: 1 for equal
    distributions, 0 for those that share no prototype. How nCLIP compares distributions when it evaluates
    is not known to us: this is our reading.
    """
    return jnp.exp(0.5 * jax.nn.log_softmax(logits_BK.astype(jnp.float32), axis=-1))


def unit_norm(features: jax.Array) -> jax.Array:
    """Rows of length 1 in at least float32; a row of zeros stays zero, with a finite gradient."""
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    squared = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def build_towers(config: ConfigDict, vocab_size: int, eot_id: int, devices: int = 1) -> TwoTowers:
    """Build both towers of `config` (a preset of `models/presets.py`, perhaps with changed fields).

    The vocabulary's size and its end-of-text id come from the tokenizer; `devices` is over how many a training
    batch is spread, which only local batch normalisation needs to know.

    Raises:
      UserError: an unknown tower or dtype, or sizes and options that do not go together.
    """
    image_dtype, text_dtype = dtype_of(config, "image"), dtype_of(config, "text")
    embeds = config.get("embeds") or "projection"
    lookup(EMBEDS, embeds, "model.embeds")
    _check_sizes(config)
    given = {"embed_dim": config.embed_dim}
    of_text = {"vocab_size": vocab_size, "eot_id": eot_id}
    return TwoTowers(
        image=_build_tower("image", config.image, {**given, "dtype": image_dtype, "devices": devices}),
        text=_build_tower("text", config.text, {**given, "dtype": text_dtype, **of_text}),
        image_head=_build_head(config.get("heads"), image_dtype),
        text_head=_build_head(config.get("heads"), text_dtype),
        embeds=embeds,
        pixel_mean=checked_pixels(config.image, "pixel_mean", PIXEL_MEAN),
        pixel_std=checked_pixels(config.image, "pixel_std", PIXEL_STD),
        resize=config.image.resize,
    )


def dtype_of(config: ConfigDict, side: str) -> jnp.dtype:
    """What the tower of `side` computes in: `model.SIDE.dtype`, or `model.dtype` where that is "" or absent."""
    shared = lookup(DTYPES, config.dtype, "model.dtype")
    own = config[side].get("dtype", "")
    return lookup(DTYPES, own, f"model.{side}.dtype") if own else shared


def _build_tower(side: str, config: ConfigDict, given: dict) -> nn.Module:
    """The tower that `config` names, with the rest of `config` as its fields; `given` are those not in it."""
    name = config.tower
    tower = lookup(TOWERS, name, f"model.{side}.tower")
    options = {option: value for option, value in config.items() if option not in NOT_OF_TOWER}
    fields = {f.name: f for f in dataclasses.fields(tower) if f.init and f.name not in ("parent", "name", *given)}
    for option in options:
        lookup(fields, option, f"key of the {name} tower, model.{side}:")
    missing = [f.name for f in fields.values() if f.default is dataclasses.MISSING and f.name not in options]
    if missing:
        raise UserError(f"model.{side}.tower={name!r} needs model.{side}.{missing[0]}: add it, or choose a preset.")
    taken = {f.name for f in dataclasses.fields(tower)}
    options = checked_options(side, name, options, given["embed_dim"])
    return tower(**options, **{name: value for name, value in given.items() if name in taken})


def _build_head(config: ConfigDict | None, dtype: jnp.dtype) -> DistributionHead | None:
    """The head that `config` describes; none where there is no such section, as in a run from before heads."""
    if config is None:
        return None
    for option in config:
        lookup(dict.fromkeys(HEAD_OPTIONS), option, "key of model.heads:")
    missing = [option for option in HEAD_OPTIONS if option not in config]
    if missing:
        raise UserError(f"model.heads needs {missing[0]}: add it, or choose a preset.")
    return DistributionHead(**config, dtype=dtype)


def _check_sizes(config: ConfigDict) -> None:
    image, text = config.image, config.text
    for key, value in flatten(config):
        least = 0 if key.endswith(".mlp_width") else 1  # 0: four times the width
        if type(value) is int and value < least:
            raise UserError(f"model.{key}={value} must be at least {least}.")
    if "patch_size" in image and image.image_size % image.patch_size:
        raise UserError(
            f"model.image.patch_size={image.patch_size} does not divide model.image.image_size={image.image_size}."
        )
    if image.tower == "resnet":
        _check_resnet(image)
    for name, tower in (("image", image), ("text", text)):
        if tower.tower in ("vit", "text_transformer") and tower.width % tower.heads:
            raise UserError(f"model.{name}.heads={tower.heads} does not divide model.{name}.width={tower.width}.")


def _check_resnet(image: ConfigDict) -> None:
    if len(image.layers) != 4 or min(image.layers) < 1:
        raise UserError(f"model.image.layers={tuple(image.layers)} must be four numbers of blocks, at least 1 each.")
    if image.image_size % REDUCTION:
        raise UserError(f"model.image.image_size={image.image_size} must be a multiple of {REDUCTION} for a ResNet.")
    if image.width % 2:
        raise UserError(f"model.image.width={image.width} must be even: half of it are the stem's channels.")
    if REDUCTION * image.width % image.heads:
        raise UserError(
            f"model.image.heads={image.heads} does not divide the {REDUCTION * image.width} channels of the last map, "
            f"{REDUCTION} model.image.width."
        )
