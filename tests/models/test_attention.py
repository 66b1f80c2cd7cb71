"""Attention and its custom VJP, compared with loops in float64 and with autodiff of JAX's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.attention import attend


def random(*shape, scale=1.0, dtype=np.float64):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def by_loops(fused, heads, causal):
    """One query at a time."""
    batch, tokens, width = fused.shape[0], fused.shape[1], fused.shape[2] // 3
    size = width // heads
    q, k, v = fused[..., :width], fused[..., width : 2 * width], fused[..., 2 * width :]
    out = np.zeros((batch, tokens, width))
    for b, t, n in np.ndindex(batch, tokens, heads):
        seen, head = slice(0, t + 1 if causal else tokens), slice(n * size, (n + 1) * size)
        scores = k[b, seen, head] @ q[b, t, head] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[b, t, head] = weights / weights.sum() @ v[b, seen, head]
    return out


def jax_attention(fused, heads, causal):
    batch, tokens, width = fused.shape
    q, k, v = (x.reshape(batch, tokens, heads, -1) for x in jnp.split(fused, 3, axis=-1))
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(batch, tokens, width // 3)


def gradient(function, fused, heads, causal):
    out_bar = jnp.asarray(np.random.default_rng(1).standard_normal((*fused.shape[:2], fused.shape[2] // 3)))
    return jax.grad(lambda x: (function(x, heads, causal) * out_bar).sum())(fused)


SHAPES = [(2, 5, 12, 2), (3, 1, 12, 2), (1, 7, 4, 1), (2, 3, 6, 6)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("batch", "tokens", "width", "heads"), SHAPES)
def test_values_and_gradients(batch, tokens, width, heads, causal):
    with jax.enable_x64(True):
        fused = jnp.asarray(random(batch, tokens, 3 * width))
        np.testing.assert_allclose(attend(fused, heads, causal), by_loops(fused, heads, causal), rtol=1e-12, atol=1e-14)
        ours, theirs = (gradient(f, fused, heads, causal) for f in (attend, jax_attention))
        # JAX's softmax is float32 for every input dtype.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_equals_finite_differences(causal):
    with jax.enable_x64(True):
        fused, step = random(1, 4, 12), 1e-6
        out_bar = np.random.default_rng(1).standard_normal((1, 4, 4))
        slopes = np.zeros_like(fused)
        for index in np.ndindex(fused.shape):
            change = np.zeros_like(fused)
            change[index] = step
            up, down = (by_loops(fused + sign * change, 2, causal) for sign in (1, -1))
            slopes[index] = ((up - down) * out_bar).sum() / (2 * step)
        np.testing.assert_allclose(gradient(attend, jnp.asarray(fused), 2, causal), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_equal_and_huge_scores(scale):
    fused = jnp.asarray(random(2, 6, 24, scale=scale, dtype=np.float32))
    np.testing.assert_allclose(attend(fused, 2, True), by_loops(np.float64(fused), 2, True), rtol=1e-3, atol=1e-3)
    assert np.isfinite(gradient(attend, fused, 2, True)).all()


def test_half_precision_is_close_to_single():
    fused = jnp.asarray(random(2, 6, 24, dtype=np.float32)).astype(jnp.bfloat16)
    for ours, exact in (
        (attend(fused, 2, True), attend(fused.astype(jnp.float32), 2, True)),
        (gradient(attend, fused, 2, True), gradient(attend, fused.astype(jnp.float32), 2, True)),
    ):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=0.03)


def test_later_tokens_have_no_gradient_under_the_causal_mask():
    fused = jnp.asarray(random(1, 5, 12, dtype=np.float32))
    found = jax.grad(lambda x: attend(x, 2, True)[:, :3].sum())(fused)
    assert not found[:, 3:].any() and found[:, :3].any()
