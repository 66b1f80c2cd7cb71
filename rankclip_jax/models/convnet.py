"""A small convolutional image tower for small images on CPUs.

Its shape follows from measurements on the embedded data. XLA's CPU convolutions reach 130-180 GFLOP/s on small
feature maps with many channels, and at most a third of this speed in a ResNet's stem, where maps are large and have
few channels. So pixels are folded into channels first, and all convolutions run at 1/8 and 1/16 of the image side.

Letters: B batch, S image side, P patch side, C channels, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import layer_norm

HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def space_to_depth(x_BSSC: jax.Array, patch: int) -> jax.Array:
    """[B, S, S, C] to [B, S/P, S/P, P P C]: each patch becomes one position."""
    batch, side, _, channels = x_BSSC.shape
    grid = side // patch
    x = x_BSSC.reshape(batch, grid, patch, grid, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, grid, grid, patch * patch * channels)


class ResidualConv(nn.Module):
    """x + conv3x3(gelu(norm(x))), initialised as the identity."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BSSC: jax.Array) -> jax.Array:
        y = nn.gelu(layer_norm("norm", self.dtype)(x_BSSC))
        zero = nn.initializers.zeros  # deep stacks train without batch normalisation
        return x_BSSC + nn.Conv(x_BSSC.shape[-1], (3, 3), dtype=self.dtype, kernel_init=zero, name="conv")(y)


class ConvNet(nn.Module):
    """Fold pixels into channels, halve the side in each stage, and project the last feature map.

    The feature map is flattened, not averaged: in small, centred images the position of a shape matters.

    Attributes:
      patch_size: side of the patches that are folded into channels. The first 3 x 3 convolution mixes neighbours.
      widths: channels of each stage.
      depths: residual convolutions of each stage, after the one that halves the side.
    """

    image_size: int
    patch_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    embed_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BSSC: jax.Array, with_trunk: bool = False, train: bool = False):
        """Normalised images, float [B, S, S, 3], to features [B, E], which are not normalised.

        With `with_trunk` also the input of the projection: the flattened last feature map. `train` has no effect.
        """
        del train
        x = space_to_depth(images_BSSC.astype(self.dtype), self.patch_size)
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            x = layer_norm(f"norm{stage}", self.dtype)(x) if stage else x
            x = nn.Conv(width, (3, 3), (2, 2), dtype=self.dtype, kernel_init=HE, name=f"down{stage}")(x)
            for block in range(depth):
                x = ResidualConv(self.dtype, name=f"stage{stage}_{block}")(x)
        x = nn.gelu(layer_norm("norm_out", self.dtype)(x))
        flat = x.reshape(x.shape[0], -1)
        features_BE = nn.Dense(self.embed_dim, use_bias=False, dtype=self.dtype, name="proj")(flat)
        return (features_BE, flat) if with_trunk else features_BE
