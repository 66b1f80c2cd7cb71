"""Softmax attention with a backward pass of its own.

Letters: B batch, T and S tokens, D width, N heads, H head size.

Heads lead through all of it, so that every product is one of plain matrices: on CPUs `jax.nn.dot_product_attention`,
whose heads come after the tokens, takes up to twice the time.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(fused_BT3D: jax.Array, heads: int, causal: bool) -> jax.Array:
    """Softmax attention of queries, keys and values that lie side by side, [B, T, 3 D] -> [B, T, D].

    Scores and softmax are float32 at least. Only the input is kept for the backward pass, which computes the
    shares again. Derivatives are first order and of reverse mode only.
    """
    q, k, v = _by_head(fused_BT3D, heads)
    shares_BNTS = _shares(q, k, causal).astype(v.dtype)
    return _merged(jnp.einsum("BNTS,BNSH->BNTH", shares_BNTS, v))


def _attend_forward(fused_BT3D, heads, causal):
    return attend(fused_BT3D, heads, causal), fused_BT3D


def _attend_backward(heads, causal, fused_BT3D, out_bar_BTD):
    # With P the shares, O = P V: the scores' gradient is P (P_bar - sum over S of P P_bar).
    q, k, v = _by_head(fused_BT3D, heads)
    (out_bar,) = _by_head(out_bar_BTD, heads, 1)
    precise = jnp.promote_types(q.dtype, jnp.float32)
    shares = _shares(q, k, causal)
    shares_bar = jnp.einsum("BNTH,BNSH->BNTS", out_bar, v, preferred_element_type=precise)
    scores_bar = shares * (shares_bar - (shares * shares_bar).sum(-1, keepdims=True))
    scores_bar = (_scale(q) * scores_bar).astype(q.dtype)
    q_bar = jnp.einsum("BNTS,BNSH->BNTH", scores_bar, k)
    k_bar = jnp.einsum("BNTS,BNTH->BNSH", scores_bar, q)
    v_bar = jnp.einsum("BNTS,BNTH->BNSH", shares.astype(v.dtype), out_bar)
    # The stack that autodiff makes of the three costs a pass over each.
    return (jnp.concatenate([_merged(q_bar), _merged(k_bar), _merged(v_bar)], axis=-1),)


attend.defvjp(_attend_forward, _attend_backward)


def _shares(q_BNTH: jax.Array, k_BNSH: jax.Array, causal: bool) -> jax.Array:
    """Softmax over S, [B, N, T, S]; where `causal`, of what is not after T alone."""
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
