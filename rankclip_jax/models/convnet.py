"""A small convolutional image tower for small pictures on CPUs.

Chosen by measurement for the embedded data: XLA's CPU convolutions run at 130-180 GFLOP/s where
channels are many and the map is small, and at a third of that or less on the large, thin maps that a
ResNet's stem works on. So the stem is one patch convolution, and all depth sits at 1/8 and 1/16 of
the side.

Letters: B batch, S image side, C channels, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import layer_norm

HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class ResidualConv(nn.Module):
    """x + conv3x3(gelu(norm(x))), beginning as the identity."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BSSC: jax.Array) -> jax.Array:
        channels = x_BSSC.shape[-1]
        y = nn.gelu(layer_norm("norm", self.dtype)(x_BSSC))
        # Zero at the start keeps deep stacks trainable without batch statistics.
        return x_BSSC + nn.Conv(channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv")(y)


class ConvNet(nn.Module):
    """Patch convolution, then stages that halve the side, then a linear map of the last feature map.

    Attributes:
      widths: channels after the stem and after each halving.
      depths: residual convolutions after the stem and after each halving.
      patch_size: side and stride of the stem's patches.
    """

    image_size: int
    patch_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    embed_dim: int
    pool: str = "flatten"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BSSC: jax.Array) -> jax.Array:
        """Normalised images, float [B, S, S, 3], to features [B, E], not normalised."""
        x, patch = images_BSSC.astype(self.dtype), self.patch_size
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            kernel, stride = ((patch, patch), patch) if stage == 0 else ((3, 3), 2)
            x = layer_norm(f"norm{stage}", self.dtype)(x) if stage else x
            x = nn.Conv(width, kernel, (stride, stride), dtype=self.dtype, kernel_init=HE, name=f"down{stage}")(x)
            for block in range(depth):
                x = ResidualConv(self.dtype, name=f"stage{stage}_{block}")(x)
        x = nn.gelu(layer_norm("norm_out", self.dtype)(x))
        x = x.mean(axis=(1, 2)) if self.pool == "mean" else x.reshape(x.shape[0], -1)
        return nn.Dense(self.embed_dim, use_bias=False, dtype=self.dtype, name="proj")(x)
