"""Attention pooling with a learned query, SigLIP's "MAP head" (arXiv 2303.15343; Zhai et al. 2022, 2106.04560).

Letters: B batch, T tokens, D width, N heads, H head size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import ACTIVATIONS, layer_norm


class MapHead(nn.Module):
    """y = attention(probe, tokens); the result is y + mlp(norm(y)).

    It equals transformers' SiglipMultiheadAttentionPoolingHead: the attention has neither a residual connection nor a
    norm before it. Kernels have Xavier's uniform initialisation, biases start at zero.

    Attributes:
      mlp_width: hidden width of the MLP; 0 for 4 D.
      ln_eps: epsilon of the layer norm.
    """

    heads: int
    activation: str
    mlp_width: int = 0
    ln_eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Tokens [B, T, D] to one vector per image, [B, D]."""
        batch, tokens, width = x_BTD.shape
        by_head = (self.heads, width // self.heads)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        probe_D = self.param("probe", nn.initializers.normal(width**-0.5), (width,))
        query_D = dense(width, name="q_proj")(probe_D)  # the same for every image
        keys, values = jnp.split(dense(2 * width, name="kv_proj")(x_BTD), 2, axis=-1)
        mixed_B1NH = jax.nn.dot_product_attention(
            jnp.broadcast_to(query_D.reshape(1, 1, *by_head), (batch, 1, *by_head)),
            keys.reshape(batch, tokens, *by_head),
            values.reshape(batch, tokens, *by_head),
        )
        y_BD = dense(width, name="out_proj")(mixed_B1NH.reshape(batch, width))
        hidden = dense(self.mlp_width or 4 * width, name="c_fc")(layer_norm("ln", self.dtype, self.ln_eps)(y_BD))
        return y_BD + dense(width, name="c_proj")(ACTIVATIONS[self.activation](hidden))
