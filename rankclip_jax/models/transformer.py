"""The pre-norm transformer of both towers (CLIP, arXiv 2103.00020).

Letters: B batch, T tokens, D width.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.attention_forms import FORMS

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
    """Initializers of the image tower's blocks: PyTorch's defaults, as in CLIP. An `mlp_width` of 0 means 4 D."""
    return {
        "in_proj": nn.initializers.xavier_uniform(),
        "out_proj": uniform_fan_in(width),
        "c_fc": uniform_fan_in(width),
        "c_proj": uniform_fan_in(mlp_width or 4 * width),
    }


def text_block_init(width: int, layers: int) -> dict[str, Initializer]:
    """Initializers of CLIP's text tower: normal; layers that add to the residual are smaller by sqrt(2 layers)."""
    normal = nn.initializers.normal
    residual = width**-0.5 * (2 * layers) ** -0.5
    return {
        "in_proj": normal(width**-0.5),
        "out_proj": normal(residual),
        "c_fc": normal((2 * width) ** -0.5),
        "c_proj": normal(residual),
    }


def layer_norm(name: str, dtype: jnp.dtype, eps: float = 1e-5) -> nn.LayerNorm:
    """PyTorch's LayerNorm: epsilon inside the root, variance in two passes, computed in float32."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=dtype, name=name)


def dense(
    name: str, width: int, kernel_init: Initializer, dtype: jnp.dtype, bias_init: Initializer = nn.initializers.zeros
) -> Callable[[jax.Array], jax.Array]:
    """A linear layer for [B, T, .] that is computed as [B T, .].

    With one leading axis, the kernel's gradient is a plain matrix product. With two, XLA first transposes the
    activations: on a CPU, this takes a sixth of a train step of ViT-Ti/16.
    """
    layer = nn.Dense(width, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)

    def apply(x: jax.Array) -> jax.Array:
        return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], width)

    return apply


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection. `form` is a key of `attention_forms.FORMS`."""

    heads: int
    causal: bool
    initializers: Mapping[str, Initializer]
    dtype: jnp.dtype
    form: str = "reference"

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        width = x_BTD.shape[-1]
        fused_BT3D = dense("in_proj", 3 * width, self.initializers["in_proj"], self.dtype)(x_BTD)
        mixed_BTD = FORMS[self.form](fused_BT3D, self.heads, self.causal)
        return dense("out_proj", width, self.initializers["out_proj"], self.dtype)(mixed_BTD)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      mlp_width: hidden width of the MLP; 0 for 4 D.
      ln_eps: epsilon of both layer norms.
      layer_scale: initial value of a learned factor for each channel of both branches; 0 for no factors.
      attention: a key of `attention_forms.FORMS`.
    """

    heads: int
    causal: bool
    activation: str
    initializers: Mapping[str, Initializer]
    dtype: jnp.dtype
    mlp_width: int = 0
    ln_eps: float = 1e-5
    layer_scale: float = 0.0
    attention: str = "reference"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, _=None):
        width = x_BTD.shape[-1]
        hidden_width = self.mlp_width or 4 * width
        attention = Attention(self.heads, self.causal, self.initializers, self.dtype, self.attention, name="attn")
        x_BTD = x_BTD + self._scaled("ls_1", attention(layer_norm("ln_1", self.dtype, self.ln_eps)(x_BTD)))
        c_fc = dense("c_fc", hidden_width, self.initializers["c_fc"], self.dtype, uniform_fan_in(width))
        c_proj = dense("c_proj", width, self.initializers["c_proj"], self.dtype, uniform_fan_in(hidden_width))
        hidden = c_fc(layer_norm("ln_2", self.dtype, self.ln_eps)(x_BTD))
        # nn.scan expects a pair: the carry, and outputs to stack (none).
        return x_BTD + self._scaled("ls_2", c_proj(ACTIVATIONS[self.activation](hidden))), None

    def _scaled(self, name: str, branch_BTD: jax.Array) -> jax.Array:
        if not self.layer_scale:
            return branch_BTD
        init = nn.initializers.constant(self.layer_scale)
        return branch_BTD * self.param(name, init, (branch_BTD.shape[-1],))[None, None].astype(self.dtype)


# What a block keeps for the backward pass, which computes the rest again.
REMAT: Mapping[str, Callable[[type[nn.Module]], type[nn.Module]]] = {
    "none": lambda block: block,  # everything is kept
    "block": functools.partial(nn.remat, prevent_cse=False),  # only the input is kept
    "dots": functools.partial(  # only the outputs of linear layers are kept
        nn.remat, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}


BLOCKS = "blocks"  # stacked parameters; those of single blocks are "blocks_0", "blocks_1", ...


class Transformer(nn.Module):
    """`layers` blocks in a scan: one block is compiled, and parameters are stacked on a leading axis.

    With the parameters of `unstacked`, the blocks run one after another without a scan, for evaluation only.

    Attributes:
      remat: a key of `REMAT`.
      mlp_width, ln_eps, layer_scale, attention: see `Block`.
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
    layer_scale: float = 0.0
    attention: str = "reference"

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        options = (self.heads, self.causal, self.activation, self.initializers, self.dtype)
        sizes = {"mlp_width": self.mlp_width, "ln_eps": self.ln_eps, "layer_scale": self.layer_scale}
        sizes["attention"] = self.attention
        if self.has_variable("params", f"{BLOCKS}_0"):
            for layer in range(self.layers):
                x_BTD, _ = Block(*options, **sizes, name=f"{BLOCKS}_{layer}")(x_BTD)
            return x_BTD
        block = REMAT[self.remat](Block)
        stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        return stack(*options, **sizes, name=BLOCKS)(x_BTD, None)[0]


def unstacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of towers in which the stacked blocks are separate.

    In a scan, the CPU backend copies the parameters of each block before it uses them. For one image, these copies
    take as long as the computation.
    """
    found = {}
    for name, value in params.items():
        if name == BLOCKS:
            layers = len(jax.tree.leaves(value)[0])
            found |= {f"{name}_{i}": jax.tree.map(lambda stack, i=i: stack[i], value) for i in range(layers)}
        else:
            found[name] = unstacked(value) if isinstance(value, Mapping) else value
    return found
