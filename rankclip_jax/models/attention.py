"""Softmax attention with a custom VJP, tuned for CPUs.

It differs from `jax.nn.dot_product_attention` in four ways:

* Heads precede tokens, so every product is a batch of plain matrix products. JAX's function has tokens before heads,
  and takes up to twice the time on CPUs.
* Only the input is stored for the backward pass, which computes the attention weights again.
* It has first-order derivatives only, in reverse mode.
* Both passes hold the scores in memory, float32 [B, N, T, T]: 1.9 GB per layer for ViT-B/16 at B = 1024. A fused GPU
  kernel would not need this array; this function has not been compared with one.

Letters: B batch, T queries, S keys (T = S), D width, N heads, H head size.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(fused_BT3D: jax.Array, heads: int, causal: bool) -> jax.Array:
    """softmax(Q K^T / sqrt(H)) V for every head.

    Args:
      fused_BT3D: queries, keys and values side by side, [B, T, 3 D].
      heads: N, which divides D.
      causal: whether a token attends only to itself and earlier tokens.

    Returns:
      [B, T, D] in the input's dtype. Scores and softmax are computed in at least float32.
    """
    q, k, v = _by_head(fused_BT3D, heads)
    weights_BNTS = _attention_weights(q, k, causal).astype(v.dtype)
    return _merged(jnp.einsum("BNTS,BNSH->BNTH", weights_BNTS, v))


def _attend_forward(fused_BT3D, heads, causal):
    return attend(fused_BT3D, heads, causal), fused_BT3D


def _attend_backward(heads, causal, fused_BT3D, out_bar_BTD):
    # With weights P and O = P V, the gradient of the scores is P (P_bar - sum over S of P P_bar).
    q, k, v = _by_head(fused_BT3D, heads)
    (out_bar,) = _by_head(out_bar_BTD, heads, 1)
    precise = jnp.promote_types(q.dtype, jnp.float32)
    weights = _attention_weights(q, k, causal)
    weights_bar = jnp.einsum("BNTH,BNSH->BNTS", out_bar, v, preferred_element_type=precise)
    scores_bar = weights * (weights_bar - (weights * weights_bar).sum(-1, keepdims=True))
    scores_bar = (_scale(q) * scores_bar).astype(q.dtype)
    q_bar = jnp.einsum("BNTS,BNSH->BNTH", scores_bar, k)
    k_bar = jnp.einsum("BNTS,BNTH->BNSH", scores_bar, q)
    v_bar = jnp.einsum("BNTS,BNTH->BNSH", weights.astype(v.dtype), out_bar)
    # Autodiff would stack the three gradients, which reads and writes each of them once more.
    return (jnp.concatenate([_merged(q_bar), _merged(k_bar), _merged(v_bar)], axis=-1),)


attend.defvjp(_attend_forward, _attend_backward)


def _attention_weights(q_BNTH: jax.Array, k_BNSH: jax.Array, causal: bool) -> jax.Array:
    """Softmax over S in at least float32, [B, N, T, S]. With `causal`, 0 where S is after T."""
    precise = jnp.promote_types(q_BNTH.dtype, jnp.float32)
    scores = _scale(q_BNTH) * jnp.einsum("BNTH,BNSH->BNTS", q_BNTH, k_BNSH, preferred_element_type=precise)
    if causal:
        scores = jnp.where(jnp.tri(scores.shape[-1], dtype=bool), scores, jnp.finfo(precise).min)
    return jax.nn.softmax(scores, axis=-1)


def _scale(q_BNTH: jax.Array) -> float:
    return q_BNTH.shape[-1] ** -0.5


def _by_head(x: jax.Array, heads: int, parts: int = 3) -> jax.Array:
    """[B, T, parts D] -> [parts, B, N, T, H]"""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, parts, heads, width // (parts * heads)).transpose(2, 0, 3, 1, 4)


def _merged(x_BNTH: jax.Array) -> jax.Array:
    """[B, N, T, H] -> [B, T, D]"""
    batch, heads, tokens, size = x_BNTH.shape
    return x_BNTH.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * size)
