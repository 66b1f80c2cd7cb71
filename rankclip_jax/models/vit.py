"""CLIP's vision transformer.

Letters: B batch, S image side, P patches, D width, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import Transformer, image_block_init, layer_norm, uniform_fan_in


class VisionTransformer(nn.Module):
    """Patches, class token, pre-norm transformer, projection of the class token.

    Initialised as in OpenAI's code: PyTorch defaults in the blocks and patch convolution, and
    D^-0.5 N(0, 1) for the class token, position embedding and projection.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BSSC: jax.Array, with_trunk: bool = False, train: bool = False):
        """Normalised images, float [B, S, S, 3], to features [B, E], not normalised.

        With `with_trunk` also what they are projected from, [B, D].
        """
        width, patch = self.width, self.patch_size
        scaled_normal = nn.initializers.normal(width**-0.5)
        x = nn.Conv(
            width,
            (patch, patch),
            (patch, patch),
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            kernel_init=uniform_fan_in(3 * patch * patch),
            name="conv1",
        )(images_BSSC.astype(self.dtype))
        x_BPD = x.reshape(x.shape[0], -1, width)
        class_token = self.param("class_embedding", scaled_normal, (width,)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, width)), x_BPD], axis=1)
        x = x + self.param("positional_embedding", scaled_normal, x.shape[1:]).astype(self.dtype)
        x = layer_norm("ln_pre", self.dtype)(x)
        x = Transformer(
            layers=self.layers,
            heads=self.heads,
            causal=False,
            activation=self.activation,
            initializers=image_block_init(width),
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )(x)
        pooled_BD = layer_norm("ln_post", self.dtype)(x[:, 0])
        features_BE = pooled_BD @ self.param("proj", scaled_normal, (width, self.embed_dim)).astype(self.dtype)
        return (features_BE, pooled_BD) if with_trunk else features_BE
