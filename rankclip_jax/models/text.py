"""CLIP's text transformer; other options make it SigLIP's.

Letters: B batch, L context length, D width, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.transformer import Transformer, layer_norm, text_block_init

# The token that represents the text: the first end-of-text token, the last token of the context, or the first one.
POOLS = ("first_eot", "last", "first")


def reads_padding(causal: bool, pool: str) -> bool:
    """Whether the features of a text depend on the tokens after its end."""
    return not causal or pool == "last"


class TextTransformer(nn.Module):
    """Token and position embeddings, transformer, projection of one token. Initialised like CLIP's.

    Attributes:
      eot_id: id of the end-of-text token. Tokens after its first occurrence are padding, see `reads_padding`.
      mlp_width: hidden width of the MLPs; 0 for 4 D.
      ln_eps: epsilon of every layer norm.
      layer_scale: see `transformer.Block`.
      causal: whether a token attends only to itself and earlier tokens.
      pool: one of `POOLS`.
      projection: whether features are projected; if not, E must be D.
      remat: a key of `transformer.REMAT`.
      attention: a key of `attention_forms.FORMS`.
    """

    vocab_size: int
    context_length: int
    eot_id: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    activation: str = "quick_gelu"
    mlp_width: int = 0
    ln_eps: float = 1e-5
    layer_scale: float = 0.0
    causal: bool = True
    pool: str = "first_eot"
    projection: bool = True
    projection_bias: bool = False
    remat: str = "none"
    attention: str = "reference"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens_BL: jax.Array, with_trunk: bool = False, train: bool = False):
        """Token ids, int32 [B, L], to features [B, E], which are not normalised.

        L may be less than the context length if `reads_padding` is false and every text ends within L tokens. With
        `with_trunk` also the input of the projection, [B, D]. `train` has no effect.
        """
        del train
        normal = nn.initializers.normal
        tokens = self.param("token_embedding", normal(0.02), (self.vocab_size, self.width))
        positions = self.param("positional_embedding", normal(0.01), (self.context_length, self.width))
        x_BLD = (tokens[tokens_BL] + positions[None, : tokens_BL.shape[1]]).astype(self.dtype)
        block = {"activation": self.activation, "mlp_width": self.mlp_width, "ln_eps": self.ln_eps, "dtype": self.dtype}
        block |= {"layer_scale": self.layer_scale, "attention": self.attention}
        init = text_block_init(self.width, self.layers)
        x_BLD = Transformer(
            self.layers, self.heads, self.causal, initializers=init, remat=self.remat, **block, name="transformer"
        )(x_BLD)
        pooled_BD = layer_norm("ln_final", self.dtype, self.ln_eps)(self._pooled(x_BLD, tokens_BL))
        features_BE = self._projected(pooled_BD)
        return (features_BE, pooled_BD) if with_trunk else features_BE

    def _pooled(self, x_BLD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
        if self.pool != "first_eot":
            return x_BLD[:, -1 if self.pool == "last" else 0]
        # argmax returns the first of equal values: the first end-of-text token.
        end_B = jnp.argmax(tokens_BL == self.eot_id, axis=1)
        return jnp.take_along_axis(x_BLD, end_B[:, None, None], axis=1)[:, 0]

    def _projected(self, pooled_BD: jax.Array) -> jax.Array:
        if not self.projection:
            return pooled_BD
        normal = nn.initializers.normal(self.width**-0.5)
        features_BE = pooled_BD @ self.param("text_projection", normal, (self.width, self.embed_dim)).astype(self.dtype)
        if not self.projection_bias:
            return features_BE
        bias = self.param("text_projection_bias", nn.initializers.zeros, (self.embed_dim,))
        return features_BE + bias[None].astype(self.dtype)
