"""The pre-norm transformer that both towers are made of (CLIP, arXiv 2103.00020).

Letters: B batch, T and S tokens, D width, N heads, H head size.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # SigLIP's
}


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for linear layers and convolutions."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def image_block_init(width: int, mlp_width: int = 0) -> dict[str, Initializer]:
    """CLIP leaves the image tower's blocks at PyTorch's defaults; an `mlp_width` of 0 is 4 D."""
    return {
        "in_proj": nn.initializers.xavier_uniform(),
        "out_proj": uniform_fan_in(width),
        "c_fc": uniform_fan_in(width),
        "c_proj": uniform_fan_in(mlp_width or 4 * width),
    }


def text_block_init(width: int, layers: int) -> dict[str, Initializer]:
    """CLIP's text tower: normal, and smaller by sqrt(2 layers) where a block adds to the residual."""
    normal = nn.initializers.normal
    residual = width**-0.5 * (2 * layers) ** -0.5
    return {
        "in_proj": normal(width**-0.5),
        "out_proj": normal(residual),
        "c_fc": normal((2 * width) ** -0.5),
        "c_proj": normal(residual),
    }


def layer_norm(name: str, dtype: jnp.dtype, eps: float = 1e-5) -> nn.LayerNorm:
    """PyTorch's LayerNorm: eps inside the root, two-pass variance, computed in float32."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=dtype, name=name)


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection."""

    heads: int
    causal: bool
    initializers: Mapping[str, Initializer]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        width = x_BTD.shape[-1]
        fused = nn.Dense(3 * width, dtype=self.dtype, kernel_init=self.initializers["in_proj"], name="in_proj")(x_BTD)
        mixed_BTD = attend(fused, self.heads, self.causal)
        return nn.Dense(width, dtype=self.dtype, kernel_init=self.initializers["out_proj"], name="out_proj")(mixed_BTD)


def attend(fused_BT3D: jax.Array, heads: int, causal: bool) -> jax.Array:
    """Softmax attention of queries, keys and values that lie side by side, [B, T, 3 D] -> [B, T, D].

    Heads lead through all of it, so that every product is one of plain matrices: on CPUs
    `jax.nn.dot_product_attention`, whose heads come after the tokens, takes up to twice the time. Scores and softmax
    are float32 at least.
    """
    batch, tokens, width = fused_BT3D.shape
    head_width = width // (3 * heads)
    q, k, v = fused_BT3D.reshape(batch, tokens, 3, heads, head_width).transpose(2, 0, 3, 1, 4)  # [B, N, T, H] each
    precise = jnp.promote_types(q.dtype, jnp.float32)
    scores_BNTS = head_width**-0.5 * jnp.einsum("BNTH,BNSH->BNTS", q, k, preferred_element_type=precise)
    if causal:
        scores_BNTS = jnp.where(jnp.tri(tokens, dtype=bool), scores_BNTS, jnp.finfo(precise).min)
    shares_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(v.dtype)
    mixed_BNTH = jnp.einsum("BNTS,BNSH->BNTH", shares_BNTS, v)
    return mixed_BNTH.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * head_width)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      mlp_width: hidden width of the MLP; 0 for 4 D.
      ln_eps: of both norms.
    """

    heads: int
    causal: bool
    activation: str
    initializers: Mapping[str, Initializer]
    dtype: jnp.dtype
    mlp_width: int = 0
    ln_eps: float = 1e-5

    @nn.compact
    def __call__(self, x_BTD: jax.Array, _=None):
        width = x_BTD.shape[-1]
        hidden_width = self.mlp_width or 4 * width
        attention = Attention(self.heads, self.causal, self.initializers, self.dtype, name="attn")
        x_BTD = x_BTD + attention(layer_norm("ln_1", self.dtype, self.ln_eps)(x_BTD))
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        c_fc, c_proj = self.initializers["c_fc"], self.initializers["c_proj"]
        hidden = dense(hidden_width, kernel_init=c_fc, bias_init=uniform_fan_in(width), name="c_fc")(
            layer_norm("ln_2", self.dtype, self.ln_eps)(x_BTD)
        )
        hidden = ACTIVATIONS[self.activation](hidden)
        out = dense(width, kernel_init=c_proj, bias_init=uniform_fan_in(hidden_width), name="c_proj")
        # The pair is the contract of nn.scan: a carry and nothing to stack.
        return x_BTD + out(hidden), None


# What of a block is kept for the backward pass; the rest is computed again there.
REMAT: Mapping[str, Callable[[type[nn.Module]], type[nn.Module]]] = {
    "none": lambda block: block,  # everything is kept
    "block": functools.partial(nn.remat, prevent_cse=False),  # the input alone
    "dots": functools.partial(  # the linear maps' outputs: norms, attention and activations are computed again
        nn.remat, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}


class Transformer(nn.Module):
    """`layers` blocks, scanned: one block is compiled, parameters are stacked on a leading axis.

    Attributes:
      remat: a key of `REMAT`.
      mlp_width, ln_eps: as of `Block`.
    """

    layers: int
    heads: int
    causal: bool
    activation: str
    initializers: Mapping[str, Initializer]
    remat: str
    dtype: jnp.dtype
    mlp_width: int = 0
    ln_eps: float = 1e-5

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        block = REMAT[self.remat](Block)
        stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        blocks = stack(
            self.heads,
            self.causal,
            self.activation,
            self.initializers,
            self.dtype,
            self.mlp_width,
            self.ln_eps,
            name="blocks",
        )
        return blocks(x_BTD, None)[0]
