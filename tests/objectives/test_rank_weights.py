"""Lists whose positions weigh differently, by hand and against the oracle."""

import math

import jax
import numpy as np
import pytest

from rankclip_jax.objectives import listmle
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from rankclip_jax.objectives.rank_weights import RankWeights, mean_weights, weights_in_order
from tests.objectives.test_rank_options import POSITIONS, assert_close, lists, loss_and_gradient, oracle

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")


A, B, C = math.e, 1.0, 1 / math.e  # exponentials of the three utilities
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def three_items(reference, positions):
    loss, gradient = loss_and_gradient(listmle_exact, np.float32([[1, 0, -1]]), np.float32([reference]), positions)
    return float(loss[0]), np.asarray(gradient[0])


def test_three_items_with_falling_weights_by_hand():
    """Order by reference: item 2, item 0, item 1; they weigh 1/ln 2, 1/ln 3, 1/ln 4."""
    loss, gradient = three_items([0.2, 0.1, 0.3], RankWeights(0, "log"))
    first, second = (math.log(A + B + C) + 1) / LN2, (math.log(A + B) - 1) / LN3
    assert loss == pytest.approx(first + second, rel=1e-6)  # the last one is alone
    of_item_0 = A / (A + B + C) / LN2 + A / (A + B) / LN3 - 1 / LN3
    np.testing.assert_allclose(gradient[[0, 2]], [of_item_0, C / (A + B + C) / LN2 - 1 / LN2], rtol=1e-5)
    assert gradient.sum() == pytest.approx(0, abs=1e-6)


def test_three_items_of_which_one_counts_by_hand():
    loss, gradient = three_items([0.2, 0.1, 0.3], RankWeights(1, "none"))
    assert loss == pytest.approx(math.log(A + B + C) + 1, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([A, B, C]) / (A + B + C) - [0, 0, 1], rtol=1e-5)


def test_three_items_with_a_tie_by_hand():
    """Items 0 and 1 share ranks 1 and 2: both weigh the mean, and both count where the first does."""
    loss, _ = three_items([0.3, 0.3, 0.1], RankWeights(1, "log"))
    mean = (1 / LN2 + 1 / LN3) / 2
    assert loss == pytest.approx(mean * (2 * math.log(A + B + C) - 1 - 0), rel=1e-6)
    # At ranks 2 and 3, the first of them counts: both do.
    loss, _ = three_items([0.1, 0.1, 0.3], RankWeights(2, "log"))
    mean = (1 / LN3 + 1 / LN4) / 2
    assert loss == pytest.approx((math.log(A + B + C) + 1) / LN2 + mean * (2 * math.log(A + B) - 1), rel=1e-6)


@POSITIONS
@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_weighted_lists_against_the_oracle(positions, levels, scale):
    utility, reference = lists(4, 23, scale, levels)
    expected = oracle(utility, reference, *positions)
    assert_close(loss_and_gradient(listmle_exact, utility, reference, positions), expected, 2e-5 + 1e-6 * scale)


@POSITIONS
def test_weighted_lists_in_float64(positions):
    with jax.enable_x64(True):
        given = [np.float64(x) for x in lists(3, 23, 14.3, levels=6)]
        found = loss_and_gradient(listmle_exact, *given, positions)
        assert {x.dtype for x in found} == {np.dtype("float64")}
        assert_close(found, oracle(*given, *positions), 1e-11)


@pytest.mark.parametrize("levels", [0, 4])
def test_few_long_lists_take_the_other_recurrence(levels, monkeypatch):
    """On CPU too: a scan over the ranks of one list is slow. It is also what accelerators run."""
    monkeypatch.setattr(listmle, "FEW_LISTS", 10)
    assert listmle._recurrences(30, 2)[0] is listmle._prefix_sums_associative
    given = lists(2, 30, 14.3, levels)
    found = loss_and_gradient(lambda *x: listmle_exact(*x), *given, RankWeights(7, "log"))
    assert_close(found, oracle(*given, 7, "log"), 2e-5)


def test_counting_every_position_is_the_plain_list():
    given = lists(4, 23, 14.3, levels=5)
    plain = loss_and_gradient(listmle_exact, *given, RankWeights())
    assert_close(loss_and_gradient(listmle_exact, *given, RankWeights(23)), plain, 1e-6)


def test_weights_are_exact_far_down_a_long_list():
    """A pair of ties at the end of 30,000 items, where sums over the list have lost their digits."""
    items = 30_000
    tied = np.ones((items, 1), np.float32)
    tied[[1, 15_001]] = 2.0
    found = np.asarray(mean_weights(tied, RankWeights(0, "log")))[:, 0]
    each = weights_in_order(items, RankWeights(0, "log"))
    assert each[0] == 1 / math.log(items + 1) and each[-1] == 1 / LN2
    for place in (1, 15_001):
        assert found[place] == pytest.approx((each[place] + each[place - 1]) / 2, rel=3e-7)
    np.testing.assert_allclose(found[2:15_000], each[2:15_000], rtol=3e-7)


@POSITIONS
def test_ties_make_the_order_of_weighted_items_irrelevant(positions):
    utility, reference = lists(4, 40, 14.3, levels=5)
    order = np.random.default_rng(1).permutation(40)
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference, positions)
    permuted = loss_and_gradient(listmle_exact, utility[:, order], reference[:, order], positions)
    np.testing.assert_allclose(permuted[0], loss, rtol=1e-6)
    np.testing.assert_allclose(permuted[1], gradient[:, order], rtol=1e-4, atol=1e-5)


@POSITIONS
def test_released_lists_are_weighted_by_argsort_position(positions):
    """Without ties, and at a scale where its epsilon is nothing, it is the exact loss."""
    given = lists(4, 23, 2.0)
    assert_close(loss_and_gradient(listmle_released, *given, positions), oracle(*given, *positions), 1e-5)
