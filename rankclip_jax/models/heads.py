"""Heads that map a tower's features to a distribution over prototypes (nCLIP, Zhou et al. 2023, arXiv 2210.09304).

Letters: B batch, D width of the tower's features, K prototypes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.batch_norm import BatchNorm


class DistributionHead(nn.Module):
    """An MLP whose softmax is a distribution over K prototypes. Every layer is batch-normalised.

    This is a reconstruction: no code was released, and the paper's text was not available. The sizes of the large
    presets (two hidden layers of 4,096, K = 32,768) and the batch normalisation are from memory of the paper. Batch
    normalisation of the logits is an addition. Without it nothing is learned: a new tower's features are almost equal
    for all rows, so all rows have almost the same distribution, and training sharpens that common distribution.
    Statistics are those of the global batch.

    Attributes:
      prototypes: K.
      hidden_width: width of each of the `hidden_layers` hidden layers.
    """

    prototypes: int
    hidden_width: int
    hidden_layers: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BD: jax.Array, train: bool = False) -> jax.Array:
        """Features [B, D] to float32 logits [B, K]."""
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)  # the batch norms have a bias
        for layer in range(self.hidden_layers):
            x_BD = dense(self.hidden_width, name=f"hidden{layer}")(x_BD)
            x_BD = nn.gelu(BatchNorm(dtype=self.dtype, name=f"norm{layer}")(x_BD, train))
        return BatchNorm(name="norm_out")(dense(self.prototypes, name="prototypes")(x_BD), train)
