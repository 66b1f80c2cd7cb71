"""Lists whose ranks have different weights, by hand and against the oracle."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.objectives import listmle, listmle_float64
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from rankclip_jax.objectives.research.rank_weights import RankWeights
from tests.objectives.test_listmle import assert_agrees, random_lists
from tests.support.oracles import weighted_listmle as oracle

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")

CHOICES = [(0, "log"), (1, "none"), (3, "none"), (3, "log"), (8, "log"), (100, "none")]
RANK_WEIGHTS = pytest.mark.parametrize("rank_weights", [RankWeights(*choice) for choice in CHOICES])


@functools.partial(jax.jit, static_argnums=(0, 3))
def loss_and_gradient(loss_fn, utility, reference, rank_weights):
    loss, pull = jax.vjp(lambda u: loss_fn(u, reference, rank_weights), utility)
    return loss, pull(jnp.ones_like(loss))[0]


def assert_close(found, expected, tolerance):
    assert_agrees(found, expected, tolerance, tolerance)


A, B, C = math.e, 1.0, 1 / math.e  # exponentials of the three utilities
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def three_items(reference, rank_weights):
    loss, gradient = loss_and_gradient(listmle_exact, np.float32([[1, 0, -1]]), np.float32([reference]), rank_weights)
    return float(loss[0]), np.asarray(gradient[0])


def test_three_items_with_falling_weights_by_hand():
    """Order by reference: item 2, item 0, item 1, with weights 1/ln 2, 1/ln 3, 1/ln 4."""
    loss, gradient = three_items([0.2, 0.1, 0.3], RankWeights(0, "log"))
    first, second = (math.log(A + B + C) + 1) / LN2, (math.log(A + B) - 1) / LN3
    assert loss == pytest.approx(first + second, rel=1e-6)  # the last choice has no alternative
    of_item_0 = A / (A + B + C) / LN2 + A / (A + B) / LN3 - 1 / LN3
    np.testing.assert_allclose(gradient[[0, 2]], [of_item_0, C / (A + B + C) / LN2 - 1 / LN2], rtol=1e-5)
    assert gradient.sum() == pytest.approx(0, abs=1e-6)


def test_three_items_with_top_1_by_hand():
    loss, gradient = three_items([0.2, 0.1, 0.3], RankWeights(1, "none"))
    assert loss == pytest.approx(math.log(A + B + C) + 1, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([A, B, C]) / (A + B + C) - [0, 0, 1], rtol=1e-5)


def test_three_items_with_a_tie_by_hand():
    """Items 0 and 1 share ranks 1 and 2: both have the mean weight, and both count if the better rank does."""
    loss, _ = three_items([0.3, 0.3, 0.1], RankWeights(1, "log"))
    mean = (1 / LN2 + 1 / LN3) / 2
    assert loss == pytest.approx(mean * (2 * math.log(A + B + C) - 1 - 0), rel=1e-6)
    # They share ranks 2 and 3, and rank 2 counts.
    loss, _ = three_items([0.1, 0.1, 0.3], RankWeights(2, "log"))
    mean = (1 / LN3 + 1 / LN4) / 2
    assert loss == pytest.approx((math.log(A + B + C) + 1) / LN2 + mean * (2 * math.log(A + B) - 1), rel=1e-6)


@RANK_WEIGHTS
@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_weighted_lists_against_the_oracle(rank_weights, levels, scale):
    utility, reference = random_lists(4, 23, scale, levels)
    expected = oracle(utility, reference, *rank_weights)
    assert_close(loss_and_gradient(listmle_exact, utility, reference, rank_weights), expected, 2e-5 + 1e-6 * scale)


@RANK_WEIGHTS
def test_weighted_lists_in_float64(rank_weights):
    with jax.enable_x64(True):
        given = [np.float64(x) for x in random_lists(3, 23, 14.3, levels=6)]
        found = loss_and_gradient(listmle_exact, *given, rank_weights)
        assert {x.dtype for x in found} == {np.dtype("float64")}
        assert_close(found, oracle(*given, *rank_weights), 1e-11)


@pytest.mark.parametrize("levels", [0, 4])
def test_few_long_lists_take_the_form_of_accelerators(levels, monkeypatch):
    """On CPUs a scan over the ranks of one list is slow."""
    monkeypatch.setattr(listmle, "FEW_LISTS", 10)
    monkeypatch.setattr(listmle_float64, "plackett_luce", pytest.fail)
    given = random_lists(2, 30, 14.3, levels)
    found = loss_and_gradient(lambda *x: listmle_exact(*x), *given, RankWeights(7, "log"))
    assert_close(found, oracle(*given, 7, "log"), 2e-5)


def test_equal_weights_are_the_plain_list():
    given = random_lists(4, 23, 14.3, levels=5)
    plain = loss_and_gradient(listmle_exact, *given, None)
    for rank_weights in (RankWeights(), RankWeights(23)):
        assert_close(loss_and_gradient(listmle_exact, *given, rank_weights), plain, 1e-6)


def test_weights_are_exact_far_down_a_long_list():
    """Pairs of ties in a list of 30,000 items, where one float32 sum over the list has too few digits."""
    items = 30_000
    tied = np.ones((items, 1), np.float32)
    tied[[1, 15_001]] = 2.0
    found = np.asarray(RankWeights(0, "log").of_groups(tied))[:, 0]
    each = RankWeights(0, "log").in_order(items)
    assert each[0] == 1 / math.log(items + 1) and each[-1] == 1 / LN2
    for index in (1, 15_001):
        assert found[index] == pytest.approx((each[index] + each[index - 1]) / 2, rel=3e-7)
    np.testing.assert_allclose(found[2:15_000], each[2:15_000], rtol=3e-7)


@RANK_WEIGHTS
def test_ties_make_the_order_of_weighted_items_irrelevant(rank_weights):
    utility, reference = random_lists(4, 40, 14.3, levels=5)
    order = np.random.default_rng(1).permutation(40)
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference, rank_weights)
    permuted = loss_and_gradient(listmle_exact, utility[:, order], reference[:, order], rank_weights)
    np.testing.assert_allclose(permuted[0], loss, rtol=1e-6)
    np.testing.assert_allclose(permuted[1], gradient[:, order], rtol=1e-4, atol=1e-5)


@RANK_WEIGHTS
def test_released_weights_follow_the_argsort_order(rank_weights):
    """Without ties, and at a scale where its epsilon has no effect, it equals the exact loss."""
    given = random_lists(4, 23, 2.0)
    assert_close(loss_and_gradient(listmle_released, *given, rank_weights), oracle(*given, *rank_weights), 1e-5)
