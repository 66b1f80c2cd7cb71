"""From a tower's features to a distribution over prototypes (nCLIP, Zhou et al. 2023, arXiv 2210.09304).

Letters: B batch, D width of the tower's features, K prototypes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.batch_norm import BatchNorm


class DistributionHead(nn.Module):
    """An MLP whose softmax is a distribution over K prototypes; every layer of it is batch-normalised.

    No code was released and the paper's text was not at hand: all of it is our reading. We remember hidden
    layers of 4,096, two of them, and K = 32,768, with batch normalisation. That of the logits is ours, and
    without it nothing is learned: the features of a new tower are much alike, so that all rows share one
    distribution, and the quickest way down sharpens that one. Statistics are over the global batch.

    Attributes:
      prototypes: K.
      hidden_width: of each hidden layer.
      hidden_layers: how many.
    """

    prototypes: int
    hidden_width: int
    hidden_layers: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BD: jax.Array, train: bool = False) -> jax.Array:
        """Features [B, D] to float32 logits [B, K]."""
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)  # the norms have one
        for layer in range(self.hidden_layers):
            x_BD = dense(self.hidden_width, name=f"hidden{layer}")(x_BD)
            x_BD = nn.gelu(BatchNorm(dtype=self.dtype, name=f"norm{layer}")(x_BD, train))
        return BatchNorm(name="norm_out")(dense(self.prototypes, name="prototypes")(x_BD), train)
