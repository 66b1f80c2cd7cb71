"""CLIP's vision transformer; other options make it SigLIP's.

Letters: B batch, H, W image sides, T tokens (the patches, and the class token if there is one), D width, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.image_size import Size
from rankclip_jax.models.map_head import MapHead
from rankclip_jax.models.patch_dropout import keep_some
from rankclip_jax.models.transformer import Transformer, image_block_init, layer_norm, uniform_fan_in

# How tokens become one vector: "class" takes the class token, which precedes the patches; "mean" is the mean of the
# patches before the last layer norm, and "norm_mean" after it; "map" is `MapHead`, without a class token.
POOLS = ("class", "mean", "norm_mean", "map")


def has_class_token(pool: str) -> bool:
    """Whether a class token precedes the patches."""
    return pool != "map"


class VisionTransformer(nn.Module):
    """Patches, class token, pre-norm transformer, projection of the pooled token.

    All options are initialised as in OpenAI's code: PyTorch's defaults in the blocks and the patch convolution, and
    D^-0.5 N(0, 1) for the class token, the position embeddings and the projection.

    Attributes:
      image_size: S, or (height, width) of images that are not square. A border narrower than half a patch is ignored.
      mlp_width: hidden width of the MLPs; 0 for 4 D.
      ln_eps: epsilon of every layer norm.
      layer_scale: see `transformer.Block`.
      pool: one of `POOLS`.
      pre_norm: whether a layer norm precedes the first block.
      projection: whether features are projected; if not, E must be D.
      patch_dropout: fraction of each image's patches that a training step drops.
      remat: a key of `transformer.REMAT`.
      attention: a key of `attention_forms.FORMS`.
    """

    image_size: Size
    patch_size: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"
    mlp_width: int = 0
    ln_eps: float = 1e-5
    layer_scale: float = 0.0
    pool: str = "class"
    pre_norm: bool = True
    patch_bias: bool = False
    projection: bool = True
    projection_bias: bool = False
    patch_dropout: float = 0.0
    remat: str = "none"
    attention: str = "reference"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BHWC: jax.Array, with_trunk: bool = False, train: bool = False):
        """Normalised images, float [B, H, W, 3], to features [B, E], which are not normalised.

        With `with_trunk` also the input of the projection, [B, D]. With `train`, patch dropout draws from the
        rng stream "patch_dropout".
        """
        x_BTD = self._tokens(images_BHWC)
        if train and self.patch_dropout:
            first = int(has_class_token(self.pool))
            x_BTD = keep_some(x_BTD, 1 - self.patch_dropout, self.make_rng("patch_dropout"), first)
        if self.pre_norm:
            x_BTD = layer_norm("ln_pre", self.dtype, self.ln_eps)(x_BTD)
        block = {"activation": self.activation, "mlp_width": self.mlp_width, "ln_eps": self.ln_eps, "dtype": self.dtype}
        block |= {"layer_scale": self.layer_scale, "attention": self.attention}
        init = image_block_init(self.width, self.mlp_width)
        x_BTD = Transformer(
            self.layers, self.heads, causal=False, initializers=init, remat=self.remat, **block, name="transformer"
        )(x_BTD)
        pooled_BD = self._pooled(x_BTD)
        features_BE = self._projected(pooled_BD)
        return (features_BE, pooled_BD) if with_trunk else features_BE

    def _tokens(self, images_BHWC: jax.Array) -> jax.Array:
        """The class token (if any) and the patches, with position embeddings added."""
        patch = (self.patch_size, self.patch_size)
        init = dict.fromkeys(("kernel_init", "bias_init"), uniform_fan_in(3 * self.patch_size**2))
        x = nn.Conv(
            self.width, patch, patch, padding="VALID", use_bias=self.patch_bias, dtype=self.dtype, **init, name="conv1"
        )(images_BHWC.astype(self.dtype))
        x = x.reshape(x.shape[0], -1, self.width)
        if has_class_token(self.pool):
            class_token = self._scaled_normal("class_embedding", (self.width,))
            x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, self.width)), x], axis=1)
        return x + self._scaled_normal("positional_embedding", x.shape[1:])[None]

    def _pooled(self, x_BTD: jax.Array) -> jax.Array:
        norm = layer_norm("ln_post", self.dtype, self.ln_eps)
        if self.pool == "class":
            return norm(x_BTD[:, 0])
        if self.pool == "mean":
            return norm(x_BTD[:, 1:].mean(axis=1))
        if self.pool == "norm_mean":
            return norm(x_BTD[:, 1:]).mean(axis=1)
        head = MapHead(self.heads, self.activation, self.mlp_width, self.ln_eps, self.dtype, name="map_head")
        return head(norm(x_BTD))

    def _projected(self, pooled_BD: jax.Array) -> jax.Array:
        if not self.projection:
            return pooled_BD
        features_BE = pooled_BD @ self._scaled_normal("proj", (self.width, self.embed_dim))
        if not self.projection_bias:
            return features_BE
        bias = self.param("proj_bias", nn.initializers.zeros, (self.embed_dim,))
        return features_BE + bias[None].astype(self.dtype)

    def _scaled_normal(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        return self.param(name, nn.initializers.normal(self.width**-0.5), shape).astype(self.dtype)
