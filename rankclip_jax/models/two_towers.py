"""The dual encoder: an image tower and a text tower map images and token ids to unit-norm float32 embeddings.

Letters: B batch, S image side, L context length, D embedding, K prototypes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models.attention_forms import attention_form
from rankclip_jax.models.checks import check_sizes, checked_options, checked_pixels
from rankclip_jax.models.convnet import ConvNet
from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD, normalize_pixels
from rankclip_jax.models.resnet import ModifiedResNet
from rankclip_jax.models.text import TextTransformer
from rankclip_jax.models.vit import VisionTransformer

TOWERS = {"vit": VisionTransformer, "convnet": ConvNet, "resnet": ModifiedResNet, "text_transformer": TextTransformer}
# Keys of `config.model.image` and `config.model.text` for every tower. The other keys are fields of the tower's class.
COMMON_KEYS = {"image": ("tower", "dtype", "pixel_mean", "pixel_std", "resize"), "text": ("tower", "dtype")}
HEAD_OPTIONS = ("prototypes", "hidden_width", "hidden_layers")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Output(NamedTuple):
    """How the towers compute one of the arrays that objectives read.

    Attributes:
      tower: "image" or "text".
      input: key of the batch.
      kind: "embeds", the tower's projection, unit-norm float32 [B, D]; or "logits" of the distribution head, float32
        [B, K].
    """

    tower: str
    input: str
    kind: str


# Every array that an objective may read, by name.
OUTPUTS = {
    "image_embeds": Output("image", "images", "embeds"),
    "text_embeds": Output("text", "tokens", "embeds"),
    "caption_embeds": Output("text", "caption_tokens", "embeds"),
    "image_embeds_augmented": Output("image", "augmented_images", "embeds"),
    "text_embeds_augmented": Output("text", "augmented_tokens", "embeds"),
    "image_logits": Output("image", "images", "logits"),
    "text_logits": Output("text", "tokens", "logits"),
}
# Kinds of embeddings that a trained model returns, and the array that the objective must train for each kind.
EMBEDS = {"projection": "image_embeds", "distribution": "image_logits"}


class TwoTowers(nn.Module):
    """A dual encoder. Embeddings are normalised in float32, whatever dtype the towers compute in.

    `init` creates parameters only for the outputs it computes: heads exist only for objectives that read logits.

    Attributes:
      image, text: the towers.
      image_head, text_head: map the features before a tower's projection to the logits of a distribution.
      embeds: what `encode_image` and `encode_text` return, a key of `EMBEDS`.
      pixel_mean, pixel_std: image normalisation for red, green and blue, in [0, 1].
      resize: how images of other sizes are resized, a key of `data.images.transforms.RESIZES`.
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
        """The arrays of most objectives: {"image_embeds": [B, D], "text_embeds": [B, D]}."""
        return self.compute(("image_embeds", "text_embeds"), {"images": images, "tokens": tokens})

    def compute(
        self, inputs: Sequence[str], batch: Mapping[str, jax.Array], train: bool = False, locked: Sequence[str] = ()
    ) -> dict[str, jax.Array]:
        """Compute the arrays that an objective reads. Each array of the batch passes through its tower once.

        Args:
          inputs: names of the arrays, keys of `OUTPUTS`.
          batch: uint8 [B, S, S, 3] images and int32 [B, L] token ids, by the names in `Output.input`.
          train: use patch dropout and the batch's statistics. Running statistics are updated once for each array of
            the batch, in the order of `inputs`.
          locked: parts ("image", "text", "image_head", "text_head") that run as in evaluation even if `train` is set.

        Returns:
          a dict with the keys `inputs`; shapes and dtypes as in `Output.kind`.
        """
        wanted: dict[tuple[str, str], dict[str, str]] = {}
        for name in inputs:
            tower, key, kind = OUTPUTS[name]
            wanted.setdefault((tower, key), {})[kind] = name
        arrays = {}
        for (tower, key), name_of_kind in wanted.items():
            computed = self._run(tower, batch[key], "logits" in name_of_kind, train, locked)
            arrays |= {name: computed[kind] for kind, name in name_of_kind.items()}
        return arrays

    def encode_image(self, images_BSSC: jax.Array) -> jax.Array:
        """uint8 RGB images [B, S, S, 3] to unit-norm float32 [B, D], or [B, K] if `embeds` is "distribution"."""
        return self._encode("image", images_BSSC)

    def encode_text(self, tokens_BL: jax.Array) -> jax.Array:
        """Token ids, int32 [B, L], to unit-norm float32 [B, D], or [B, K] if `embeds` is "distribution"."""
        return self._encode("text", tokens_BL)

    def image_features(self, images_BSSC: jax.Array) -> jax.Array:
        """Image features before L2 normalisation; for distribution models, the input of the head.

        uint8 RGB images [B, S, S, 3] to float32 [B, D], or [B, width of the features before the projection].
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
        train_tower, train_head = (train and part not in locked for part in (tower, f"{tower}_head"))
        if not heads:
            return {"embeds": unit_norm(run(x, train=train_tower))}
        features, trunk = run(x, with_trunk=True, train=train_tower)
        return {"embeds": unit_norm(features), "logits": head(trunk, train=train_head)}


def distribution_embeds(logits_BK: jax.Array) -> jax.Array:
    """Square roots of the probabilities, float32 [B, K] of unit norm.

    Their cosine is the Bhattacharyya coefficient sum_k sqrt(p_k q_k): 1 for equal distributions, 0 for distributions
    without a common prototype. How nCLIP compares distributions in evaluation is unknown: this is our choice.
    """
    return jnp.exp(0.5 * jax.nn.log_softmax(logits_BK.astype(jnp.float32), axis=-1))


def unit_norm(features: jax.Array) -> jax.Array:
    """Rows scaled to length 1, in at least float32; a row of zeros stays zero and has a finite gradient."""
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    squared = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def build_towers(
    config: ConfigDict, vocab_size: int, eot_id: int, devices: int = 1, device: jax.Device | None = None
) -> TwoTowers:
    """Build both towers.

    Args:
      config: `config.model`, a preset of `models/presets.py`, perhaps with changed fields.
      vocab_size, eot_id: the tokenizer's number of ids, and its end-of-text id.
      devices: number of devices that share a training batch. Only local batch normalisation uses it.
      device: a device that will run the towers, which decides the form of attention. Without one it is "reference",
        which runs everywhere.

    Raises:
      UserError: an unknown tower, dtype or option, or sizes and options that contradict each other.
    """
    for side, keys in COMMON_KEYS.items():
        _check_keys(f"model.{side}", config[side], keys)
    image_dtype, text_dtype = dtype_of(config, "image"), dtype_of(config, "text")
    embeds = config.embeds or "projection"
    lookup(EMBEDS, embeds, "model.embeds")
    forms = {side: attention_form(config, side, dtype_of(config, side), device) for side in ("image", "text")}
    image = {"embed_dim": config.embed_dim, "dtype": image_dtype, "devices": devices, "attention": forms["image"]}
    text = {"embed_dim": config.embed_dim, "dtype": text_dtype, "vocab_size": vocab_size, "eot_id": eot_id}
    text["attention"] = forms["text"]
    towers = TwoTowers(
        image=_build_tower("image", config.image, image),
        text=_build_tower("text", config.text, text),
        image_head=_build_head(config.heads, image_dtype),
        text_head=_build_head(config.heads, text_dtype),
        embeds=embeds,
        pixel_mean=checked_pixels(config.image, "pixel_mean"),
        pixel_std=checked_pixels(config.image, "pixel_std"),
        resize=config.image.resize,
    )
    check_sizes(config)  # comes last: towers that can be built have all keys that it reads
    return towers


def dtype_of(config: ConfigDict, side: str) -> jnp.dtype:
    """The compute dtype of a tower: `model.SIDE.dtype`, or `model.dtype` if the former is ""."""
    shared = lookup(DTYPES, config.dtype, "model.dtype")
    own = config[side].dtype
    return lookup(DTYPES, own, f"model.{side}.dtype") if own else shared


def _build_tower(side: str, config: ConfigDict, given: Mapping[str, Any]) -> nn.Module:
    """Build the tower `config.tower`; its fields are the other keys of `config`, and `given`."""
    name = config.tower
    tower = lookup(TOWERS, name, f"model.{side}.tower")
    options = {option: value for option, value in config.items() if option not in COMMON_KEYS[side]}
    fields = {f.name: f for f in dataclasses.fields(tower) if f.init and f.name not in ("parent", "name")}
    own = {option: field for option, field in fields.items() if option not in given}
    for option in options:
        lookup(own, option, f"key of the {name} tower, model.{side}:")
    _check_keys(f"model.{side}", options, [f.name for f in own.values() if f.default is dataclasses.MISSING])
    options = checked_options(side, name, options, given["embed_dim"])
    return tower(**options, **{option: value for option, value in given.items() if option in fields})


def _build_head(config: ConfigDict, dtype: jnp.dtype) -> DistributionHead:
    for option in config:
        lookup(dict.fromkeys(HEAD_OPTIONS), option, "key of model.heads:")
    _check_keys("model.heads", config, HEAD_OPTIONS)
    return DistributionHead(**config, dtype=dtype)


def _check_keys(section: str, config: Mapping[str, Any], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in config]
    if missing:
        raise UserError(f"{section} needs {missing[0]}: add it, or choose a preset.")
