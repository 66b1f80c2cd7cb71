"""CLIP and RankCLIP: oracle, extremes, duplicates, permutations, blocks, dtypes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import rows
from rankclip_jax.objectives.rows import (
    BLOCK_ELEMENTS,
    CPU_BLOCK_ELEMENTS,
    SMALLEST_BLOCK,
    block_size,
    loss_and_gradients,
)
from rankclip_jax.parallel.mesh import make_mesh
from tests.support import objective_checks as checks
from tests.support import oracles
from tests.support.objective_checks import assert_finite, distance, unit, whole_gradient

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("objectives")

TERMS = ("clip", "rank_cross", "rank_in_modal")
ARITHMETICS = pytest.mark.parametrize("arithmetic", ["exact", "released"])


def build(**changes):
    return checks.build("rankclip", ramp="none", **changes)


def evaluate(image, text, scale, weights=None, name="rankclip", **how):
    """The objective of these embeddings, with weight 1 for each term or with `weights`."""
    embeds = {"image_embeds": image, "text_embeds": text}
    if name == "clip":
        return checks.evaluate("clip", embeds, scale, **how)
    weights = weights or dict.fromkeys(TERMS, 1.0)
    return checks.evaluate(name, embeds, scale, weights=weights, **{"ramp": "none", "arithmetic": "exact"} | how)


def pairs(batch, dim=16):
    return tuple(checks.pairs(batch, dim).values())


# Against the oracle.


@pytest.mark.parametrize("batch", [2, 7, 24])
def test_every_term_against_brute_force(batch):
    image, text = pairs(batch)
    for scale in (1.0, 14.3, 100.0):
        rounding = scale * 2**-23  # of one utility
        for term, (loss, *parts) in oracles.rankclip_terms(image, text, math.log(scale)).items():
            result = evaluate(image, text, scale, weights={name: float(name == term) for name in TERMS})
            assert float(result.terms[term]) == pytest.approx(loss, rel=1e-5, abs=rounding)
            assert float(result.loss) == pytest.approx(loss, rel=1e-5, abs=rounding)
            gradient = np.concatenate([np.ravel(part) for part in parts])
            assert np.linalg.norm(whole_gradient(result) - gradient) < 1e-4 * np.linalg.norm(gradient) + rounding


def test_two_pairs_by_hand():
    """Matching pairs are equal, the others orthogonal: every row is (s, 0)."""
    image = text = np.eye(2, 4, dtype=np.float32)
    result = evaluate(image, text, 3.0)
    row = math.log(math.exp(3.0) + 1) - 3.0
    assert float(result.terms["clip"]) == pytest.approx(row, rel=1e-5)
    # Two directions of two rows each, all in the right order, / (32 B * B).
    assert float(result.terms["rank_cross"]) == pytest.approx(4 * row / (32 * 4), rel=1e-5)
    assert float(result.terms["rank_in_modal"]) == pytest.approx(4 * row / (32 * 4), rel=1e-5)


def test_random_embeddings_are_at_the_level_of_chance():
    rng = np.random.default_rng(0)
    image, text = (unit(rng.normal(size=(128, 512))).astype(np.float32) for _ in range(2))
    result = evaluate(image, text, 1.0)
    assert float(result.terms["clip"]) == pytest.approx(math.log(128), abs=0.01)
    # At scale 1 all orders are about equally likely: log B! per row.
    assert float(result.terms["rank_cross"]) == pytest.approx(2 * math.lgamma(129) / (32 * 128), rel=0.01)


def test_clip_is_the_first_term_of_rankclip():
    image, text = pairs(13)
    alone = evaluate(image, text, 14.3, name="clip")
    within = evaluate(image, text, 14.3, weights={"clip": 1, "rank_cross": 0, "rank_in_modal": 0})
    assert float(alone.loss) == pytest.approx(float(within.terms["clip"]), rel=1e-6)
    assert distance(whole_gradient(alone), whole_gradient(within)) < 1e-6


def test_weights_multiply_the_terms():
    image, text = pairs(7)
    weights = {"clip": 1.0, "rank_cross": 0.5, "rank_in_modal": 2.0}
    result = evaluate(image, text, 14.3, weights)
    expected = sum(weights[name] * float(result.terms[name]) for name in TERMS)
    assert float(result.loss) == pytest.approx(expected, rel=1e-6)


def test_a_weight_of_zero_drops_the_term():
    assert tuple(build(in_modal_weight=0.0).terms) == ("clip", "rank_cross")
    assert tuple(build(cross_weight=0.0).terms) == ("clip", "rank_in_modal")
    assert tuple(build().terms) == TERMS
    image, text = pairs(7)
    only_cross = loss_and_gradients(build(in_modal_weight=0.0), make_mesh(jax.devices()[:1]))
    weights = {"clip": jnp.float32(0), "rank_cross": jnp.float32(1)}
    scalars = {"logit_scale": jnp.float32(math.log(14.3))}
    result = jax.jit(only_cross)({"image_embeds": image, "text_embeds": text}, scalars, weights)
    both = evaluate(image, text, 14.3, weights={"clip": 0, "rank_cross": 1, "rank_in_modal": 0})
    assert set(result.terms) == {"clip", "rank_cross"}
    assert distance(whole_gradient(result), whole_gradient(both)) < 1e-5


# Extremes.


@ARITHMETICS
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("kind", ["related", "all equal", "opposite", "zero rows"])
def test_gradients_are_finite_at_the_limits_of_the_scale(arithmetic, scale, kind):
    image, text = pairs(24)
    if kind == "all equal":
        image = text = np.repeat(image[:1], 24, axis=0)
    if kind == "opposite":
        text = -image
    if kind == "zero rows":
        image, text = image.copy(), text.copy()
        image[3] = text[3] = text[5] = 0
    assert_finite(evaluate(image, text, scale, arithmetic=arithmetic))


def test_all_equal_embeddings_have_no_gradient():
    image, _ = pairs(1)
    result = evaluate(np.repeat(image, 24, axis=0), np.repeat(image, 24, axis=0), 100.0)
    assert float(result.terms["clip"]) == pytest.approx(math.log(24), rel=1e-5)
    # All in one tie group: each item costs log B; two directions, / 32 B.
    assert float(result.terms["rank_in_modal"]) == pytest.approx(2 * math.log(24) / 32, rel=1e-4)
    assert np.abs(whole_gradient(result)).max() < 1e-3


@ARITHMETICS
def test_a_single_pair_costs_nothing(arithmetic):
    result = evaluate(*pairs(1), 100.0, arithmetic=arithmetic)
    assert abs(float(result.loss)) < 1e-5
    assert np.abs(whole_gradient(result)).max() < 1e-5


@ARITHMETICS
@pytest.mark.parametrize("side", [0, 1])
def test_nan_reaches_every_term(arithmetic, side):
    embeds = [x.copy() for x in pairs(7)]
    embeds[side][3, 2] = np.nan
    result = evaluate(*embeds, 14.3, arithmetic=arithmetic)
    assert all(np.isnan(value) for value in (result.loss, *result.terms.values()))


# The order of the batch, and duplicates.


@pytest.mark.parametrize("block_rows", [0, 1, 4])
def test_the_order_of_the_batch_changes_nothing(block_rows):
    image, text = pairs(44)
    image[31], text[31] = image[2], text[2]  # with a tie in every row
    for scale in (14.3, 100.0):
        assert_order_is_irrelevant(image, text, scale, block_rows)


def assert_order_is_irrelevant(image, text, scale, block_rows):
    order = np.random.default_rng(1).permutation(len(image))
    result = evaluate(image, text, scale, block_rows=block_rows)
    permuted = evaluate(image[order], text[order], scale, block_rows=block_rows)
    for name in TERMS:
        assert float(permuted.terms[name]) == pytest.approx(float(result.terms[name]), rel=1e-6)
    for name, gradient in result.d_embeds.items():
        assert distance(permuted.d_embeds[name], gradient[order]) < 1e-4
    assert float(permuted.d_scalars["logit_scale"]) == pytest.approx(float(result.d_scalars["logit_scale"]), rel=1e-4)


# A block of one row is a matrix-vector product, in which XLA gives equal columns different low bits.
@pytest.mark.parametrize("block_rows", [0, 1, 2])
@pytest.mark.parametrize(("batch", "dim"), [(12, 16), (98, 128)])
def test_duplicate_pairs_get_equal_gradients(batch, dim, block_rows):
    image, text = pairs(batch, dim)
    for one, other in ((0, batch - 1), (1, batch // 2)):
        image[other], text[other] = image[one], text[one]
    gradients = evaluate(image, text, 100.0, block_rows=block_rows).d_embeds
    for one, other in ((0, batch - 1), (1, batch // 2)):
        for gradient in gradients.values():
            assert distance(gradient[other], gradient[one]) < 1e-5


@pytest.mark.parametrize("block_rows", [1, 2, 6])
def test_duplicate_captions_tie(block_rows):
    """Duplicates tie in the oracle. Without ties, rounding errors would change the gradient by several percent."""
    image, text = pairs(12)
    text[7], text[11] = text[0], text[4]
    expected = oracles.rankclip_terms(image, text, math.log(30.0))
    result = evaluate(image, text, 30.0, block_rows=block_rows)
    gradient = sum(np.concatenate([np.ravel(part) for part in parts]) for _, *parts in expected.values())
    assert distance(whole_gradient(result), gradient) < 1e-4


# Blocks and dtypes.


def test_block_size():
    on_cpu = functools.partial(block_size, platform="cpu")
    assert on_cpu(256, 256) == 256  # all rows at once if memory allows
    assert on_cpu(1024, 1024) == CPU_BLOCK_ELEMENTS // 1024
    assert on_cpu(4096, 4096) == SMALLEST_BLOCK
    assert on_cpu(97, 97) == 97
    assert on_cpu(15, 2**20) == 3  # 4 would fit, but does not divide the rows
    assert on_cpu(1021, 1021) == CPU_BLOCK_ELEMENTS // 1021  # a prime: the last block is smaller
    assert on_cpu(5, 2**30) == 1
    assert on_cpu(12, 48, requested=5) == 5
    assert on_cpu(12, 48, requested=50) == 12


def test_block_size_follows_the_platform():
    assert block_size(4096, 4096, platform="tpu") == block_size(4096, 4096, platform="gpu") == BLOCK_ELEMENTS // 4096


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    """Not that of the default backend: a mesh of CPU devices on a machine with a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    platforms = []
    monkeypatch.setattr(rows, "block_size", lambda *_, platform, **how: platforms.append(platform) or 4)
    f = loss_and_gradients(build(), make_mesh(jax.devices()[:1]))
    embeds = dict.fromkeys(("image_embeds", "text_embeds"), jax.ShapeDtypeStruct((8, 4), jnp.float32))
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    jax.eval_shape(f, embeds, {"logit_scale": scalar}, dict.fromkeys(TERMS, scalar))
    assert platforms == ["cpu"]


def test_remaining_rows_are_a_smaller_block():
    image, text = pairs(14)
    whole = evaluate(image, text, 14.3)
    for block_rows in (3, 5, 50):
        found = evaluate(image, text, 14.3, block_rows=block_rows)
        assert distance(whole_gradient(found), whole_gradient(whole)) < 1e-5
        assert float(found.loss) == pytest.approx(float(whole.loss), rel=1e-6)


def test_a_negative_block():
    with pytest.raises(UserError, match="block_rows=-5: use a number of rows"):
        evaluate(*pairs(12), 14.3, block_rows=-5)


def test_bfloat16_embeddings_are_computed_in_float32():
    image, text = (jnp.asarray(x, jnp.bfloat16) for x in pairs(13))
    result = evaluate(image, text, 14.3)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype("float32")}
    widened = evaluate(image.astype(jnp.float32), text.astype(jnp.float32), 14.3)
    np.testing.assert_array_equal(whole_gradient(result), whole_gradient(widened))


@ARITHMETICS
def test_float64_stays_float64(arithmetic):
    with jax.enable_x64(True):
        result = evaluate(*(x.astype(np.float64) for x in pairs(7)), 14.3, arithmetic=arithmetic)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype("float64")}
