"""The forms of attention, and which one a device runs.

"reference" is the function of `attention`, which runs everywhere. "cudnn" is cuDNN's fused kernel: it never holds the
scores in memory, and it reads half-precision arrays only. "xla" is JAX's function, which holds the weights of all
layers for the backward pass unless `remat` drops them; it is here to compare with.

Letters: B batch, T tokens, D width, N heads, H head size.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.models.attention import attend

AUTO = "auto"
AMPERE, HOPPER = (8, 0), (9, 0)  # compute capabilities


def of_jax(fused_BT3D: jax.Array, heads: int, causal: bool, *, implementation: Literal["xla", "cudnn"]) -> jax.Array:
    """`attention.attend` by `jax.nn.dot_product_attention`: the same arguments and result, [B, T, D]."""
    batch, tokens, width = fused_BT3D.shape
    q, k, v = jnp.moveaxis(fused_BT3D.reshape(batch, tokens, 3, heads, width // (3 * heads)), 2, 0)
    mixed_BTNH = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=implementation)
    return mixed_BTNH.reshape(batch, tokens, width // 3)


# name: f(fused [B, T, 3 D], N, causal) -> [B, T, D]
FORMS: Mapping[str, Callable[[jax.Array, int, bool], jax.Array]] = {
    "reference": attend,
    "xla": functools.partial(of_jax, implementation="xla"),
    "cudnn": functools.partial(of_jax, implementation="cudnn"),
}


def attention_form(config: ConfigDict, side: str, dtype: jnp.dtype, device: jax.Device | None) -> str:
    """Return the form of attention of one tower, a key of `FORMS`.

    Args:
      config: `config.model`. Its `attention` is a key of `FORMS`, or "auto" for cuDNN's kernel where it can be used.
      side: "image" or "text".
      dtype: in which the tower computes.
      device: that runs the tower; None if it is not known.

    Raises:
      UserError: an unknown form, or one that the device or the tower does not support.
    """
    requested, tower = config.get("attention", AUTO), config[side]
    lookup(dict.fromkeys((AUTO, *FORMS)), requested, "model.attention")
    heads = tower.get("heads", 0)
    if device is None or tower.tower not in ("vit", "text_transformer") or heads < 1:
        return "reference"
    obstacle = cudnn_obstacle(dtype, tower.width // heads, device)
    if requested == "cudnn" and obstacle:
        raise UserError(f"config.model.attention='cudnn' for the {side} tower: {obstacle}; set it to 'auto'.")
    if requested == AUTO:
        return "reference" if obstacle else "cudnn"
    return requested


def cudnn_obstacle(dtype: jnp.dtype, head_size: int, device: jax.Device) -> str:
    """Why cuDNN's kernel cannot compute attention; "" if it can. The conditions are those that JAX checks."""
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    if device.platform != "gpu" or not capability:
        return f"{device.device_kind!r} is no NVIDIA GPU"
    generation = tuple(int(part) for part in capability.groups())
    if generation < AMPERE:
        return f"{device.device_kind!r} is older than Ampere"
    if dtype != jnp.bfloat16:
        return f"it computes in {jnp.dtype(dtype).name}, and cuDNN's kernel needs bfloat16 (config.model.dtype)"
    largest = 256 if generation >= HOPPER else 128
    if head_size % 8 or head_size > largest:
        return f"its head size is {head_size}, and cuDNN's kernel needs a multiple of 8, at most {largest}"
    return ""
