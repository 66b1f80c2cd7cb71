"""RankCLIP's options: position weights and top k with ties, one list of all pairs, own pairs, fixed and detached."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rank_terms import without_own
from rankclip_jax.objectives.rank_weights import RankWeights
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")

TERMS = ("clip", "rank_cross", "rank_in_modal")
BATCH = 16  # of all tests alike: they share compiled functions
CHOICES = [(0, "log"), (1, "none"), (3, "none"), (3, "log"), (8, "log"), (100, "none")]
POSITIONS = pytest.mark.parametrize("positions", [RankWeights(*choice) for choice in CHOICES])


# The oracle: sets and one rank at a time, in float64.


def item_weights(reference, top_k, decay):
    """Weight of each item of one list: the mean over the ranks its tie group takes, the group at rank k whole."""
    weights = []
    for value in reference:
        best = 1 + sum(reference > value)
        ranks = range(best, best + sum(reference == value))
        each = [1 / math.log(rank + 1) if decay == "log" else 1.0 for rank in ranks]
        weights.append(sum(each) / len(each) if top_k == 0 or best <= top_k else 0.0)
    return np.array(weights)


def oracle(utility, reference, top_k=0, decay="none"):
    """Loss [C] and gradient [C, B]: sum_k w_k [log D_k - u_k], D_k over the set {l: ref_l <= ref_k}."""
    losses, gradients = [], []
    for u, ref in zip(np.float64(utility), np.float64(reference), strict=True):
        w = item_weights(ref, top_k, decay)
        shares = np.array([np.where(ref <= value, np.exp(u - u.max()), 0) for value in ref])
        log_d = np.log(shares.sum(axis=1)) + u.max()
        losses.append(np.sum(w * (log_d - u)))
        gradients.append(w @ (shares / shares.sum(axis=1, keepdims=True)) - w)
    return np.array(losses), np.array(gradients)


@functools.partial(jax.jit, static_argnums=(0, 3))
def loss_and_gradient(loss_fn, utility, reference, positions):
    loss, pull = jax.vjp(lambda u: loss_fn(u, reference, positions), utility)
    return loss, pull(jnp.ones_like(loss))[0]


def lists(rows, items, scale, levels=0, seed=0):
    rng = np.random.default_rng(seed)
    utility = scale * rng.uniform(-1, 1, (rows, items))
    reference = rng.integers(0, levels, (rows, items)) / 4 if levels else rng.uniform(-1, 1, (rows, items))
    return utility.astype(np.float32), reference.astype(np.float32)


def assert_close(found, expected, tolerance):
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)


# The objective.


def build(length=(100, 10), **changes):
    config = objective_config("rankclip").to_dict() | {"ramp": "none"} | changes
    return build_objective(ConfigDict(config), RunInfo(*length))


@functools.cache
def compiled(block_rows, **changes):
    return jax.jit(loss_and_gradients(build(**changes), make_mesh(jax.devices()[:1]), block_rows))


def evaluate(image, text, scale, term=None, dtype=jnp.float32, block_rows=0, **changes):
    """The objective with only `term`, or with all of them."""
    return compiled(block_rows, **changes)(
        {"image_embeds": jnp.asarray(image, dtype), "text_embeds": jnp.asarray(text, dtype)},
        {"logit_scale": jnp.asarray(math.log(scale), dtype)},
        {name: jnp.asarray(float(term in (None, name)), dtype) for name in TERMS},
    )


def pairs(batch, dim=16, seed=0):
    """Unit-norm embeddings of related images and texts; the first two texts, and images 2 and 3, are equal."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, dim)) + rng.normal(size=dim)
    text = image / 2 + rng.normal(size=(batch, dim))
    if batch > 3:
        image[3], text[1] = image[2], text[0]
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text))


def term_oracle(image, text, scale, term, scope="row", diagonal=True, **positions):
    """(loss, d_image, d_text, d_log_scale) of a ranking term in float64."""
    v, t = np.float64(image), np.float64(text)
    if term == "rank_cross":
        first, second = v @ t.T, t @ v.T
    else:
        first, second = v @ v.T, t @ t.T
    batch = len(v)
    keep = np.ones((batch, batch), bool) if diagonal else ~np.eye(batch, dtype=bool)
    shape = (1, -1) if scope == "batch" else (batch, -1)
    total, d = 0.0, []
    for utility, reference in ((first, second), (second, first)):
        # Duplicates must tie, whatever order their products were summed in.
        u, ref = scale * utility[keep].reshape(shape), np.round(reference[keep].reshape(shape), 6)
        loss, gradient = oracle(u, ref, **positions)
        full = np.zeros((batch, batch))
        full[keep] = gradient.ravel() / (32 * batch**2)
        total += loss.sum() / (32 * batch**2)
        d.append(full)
    if term == "rank_cross":
        d_v, d_t = scale * (d[0] @ t + d[1].T @ t), scale * (d[0].T @ v + d[1] @ v)
    else:
        d_v, d_t = scale * (d[0] + d[0].T) @ v, scale * (d[1] + d[1].T) @ t
    return total, d_v, d_t, scale * ((d[0] * first).sum() + (d[1] * second).sum())


def distance(found, expected):
    found, expected = (np.concatenate([np.ravel(np.float64(x)) for x in parts]) for parts in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def gradients(result):
    return [result.d_embeds["image_embeds"], result.d_embeds["text_embeds"], result.d_scalars["logit_scale"]]


# Each costs a compilation; more combinations are among the lists above and the vectors below.
OPTIONS = [
    ({"position_weight": "log", "top_k": 5}, {"decay": "log", "top_k": 5}),
    ({"include_diagonal": False}, {"diagonal": False}),
    (
        {"list_scope": "batch", "include_diagonal": False, "top_k": 20},
        {"scope": "batch", "diagonal": False, "top_k": 20},
    ),
]


@pytest.mark.parametrize(
    ("changes", "how", "block_rows"), [(*option, 0) for option in OPTIONS] + [(*OPTIONS[1], 1), (*OPTIONS[2], 4)]
)
def test_options_against_the_oracle(changes, how, block_rows):
    image, text = pairs(BATCH)
    for term in TERMS[1:]:
        result = evaluate(image, text, 14.3, term, block_rows=block_rows, **changes)
        loss, *expected = term_oracle(image, text, 14.3, term, **how)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert distance(gradients(result), expected) < 1e-4


def test_options_in_float64():
    changes, how = OPTIONS[1]
    with jax.enable_x64(True):
        image, text = (np.float64(x) for x in pairs(BATCH))
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        for term in TERMS[1:]:
            result = evaluate(image, text, 14.3, term, jnp.float64, **changes)
            loss, *expected = term_oracle(image, text, 14.3, term, **how)
            assert float(result.loss) == pytest.approx(loss, rel=1e-10)
            assert distance(gradients(result), expected) < 1e-10


@pytest.mark.parametrize(("changes", "how"), OPTIONS)
@pytest.mark.parametrize("kind", ["related", "all equal", "zero rows"])
def test_options_have_finite_gradients_at_scale_100(changes, how, kind):
    image, text = pairs(BATCH)
    if kind == "all equal":
        image = text = np.repeat(image[:1], BATCH, axis=0)
    if kind == "zero rows":
        image[4] = text[4] = text[6] = 0
    result = evaluate(image, text, 100.0, **changes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


@pytest.mark.parametrize(("changes", "how"), OPTIONS)
def test_options_follow_a_permuted_batch(changes, how):
    image, text = pairs(BATCH)
    order = np.random.default_rng(1).permutation(BATCH)
    result, permuted = (evaluate(*x, 14.3, **changes) for x in ((image, text), (image[order], text[order])))
    assert float(permuted.loss) == pytest.approx(float(result.loss), rel=1e-6)
    for name, gradient in result.d_embeds.items():
        assert distance([permuted.d_embeds[name]], [gradient[order]]) < 1e-4


def test_a_single_pair_without_its_own_pair():
    for scope in ("row", "batch"):
        result = evaluate(*pairs(1), 14.3, "rank_cross", include_diagonal=False, list_scope=scope)
        assert float(result.loss) == 0.0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def test_without_own():
    rows = jnp.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(without_own(rows, jnp.array([1, 3])), [[0, 2, 3], [4, 5, 6]])
