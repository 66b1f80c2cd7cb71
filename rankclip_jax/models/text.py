"""CLIP's text transformer.

Letters: B batch, L context length, D width, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import Transformer, layer_norm, text_block_init


class TextTransformer(nn.Module):
    """Token and position embeddings, causal transformer, projection of the first end-of-text token.

    Attributes:
      eot_id: id of the end-of-text token. What follows its first occurrence is padding, which the
        causal mask keeps from mattering.
    """

    vocab_size: int
    context_length: int
    eot_id: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens_BL: jax.Array, with_trunk: bool = False, train: bool = False):
        """Token ids, int [B, L], to features [B, E], not normalised.

        With `with_trunk` also what they are projected from, [B, D].
        """
        normal = nn.initializers.normal
        tokens = self.param("token_embedding", normal(0.02), (self.vocab_size, self.width))
        positions = self.param("positional_embedding", normal(0.01), (self.context_length, self.width))
        x_BLD = (tokens[tokens_BL] + positions).astype(self.dtype)
        x_BLD = Transformer(
            layers=self.layers,
            heads=self.heads,
            causal=True,
            activation=self.activation,
            initializers=text_block_init(self.width, self.layers),
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )(x_BLD)
        # argmax gives the first of equal values: the first end-of-text.
        end_B = jnp.argmax(tokens_BL == self.eot_id, axis=1)
        pooled_BD = jnp.take_along_axis(x_BLD, end_B[:, None, None], axis=1)[:, 0]
        pooled_BD = layer_norm("ln_final", self.dtype)(pooled_BD)
        projection = self.param("text_projection", normal(self.width**-0.5), (self.width, self.embed_dim))
        features_BE = pooled_BD @ projection.astype(self.dtype)
        return (features_BE, pooled_BD) if with_trunk else features_BE
