"""From a tower's features to a distribution over prototypes (nCLIP, Zhou et al. 2023, arXiv 2210.09304).

Letters: B batch, D width of the tower's features, K prototypes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import layer_norm


class DistributionHead(nn.Module):
    """An MLP whose softmax is a distribution over K prototypes.

    No code was released and the paper's text was not at hand: all of it is our reading. We remember hidden
    layers of 4,096, two of them, and K = 32,768, with batch normalisation. Here each hidden layer is
    followed by LayerNorm, so that a row's distribution does not depend on the rows beside it, and nothing
    has to be summed over devices.

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
    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """Features [B, D] to float32 logits [B, K]."""
        for layer in range(self.hidden_layers):
            x_BD = nn.Dense(self.hidden_width, dtype=self.dtype, name=f"hidden{layer}")(x_BD)
            x_BD = nn.gelu(layer_norm(f"norm{layer}", self.dtype)(x_BD))
        return nn.Dense(self.prototypes, dtype=self.dtype, name="prototypes")(x_BD).astype(jnp.float32)
