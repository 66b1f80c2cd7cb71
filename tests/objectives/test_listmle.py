"""ListMLE against hand values and a float64 oracle, for utilities of any size; ties, NaN, both recurrences."""

import doctest
import functools
import math

import jax
import numpy as np
import pytest

from rankclip_jax.objectives import listmle, sorting
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from tests.support.oracles import listmle as oracle

BOTH = pytest.mark.parametrize("loss_fn", [listmle_exact, listmle_released])
SCALES = pytest.mark.parametrize("scale", [1.0, 14.3, 100.0, 1e4])


@functools.partial(jax.jit, static_argnums=0)
def pulled(loss_fn, utility, reference, cotangent):
    loss, pull = jax.vjp(lambda u: loss_fn(u, reference), utility)
    return loss, pull(cotangent)[0]


def loss_and_gradient(loss_fn, utility, reference, cotangent=None):
    cotangent = np.ones(len(utility), utility.dtype) if cotangent is None else cotangent
    return tuple(np.asarray(array) for array in pulled(loss_fn, utility, reference, cotangent))


def random_lists(rows, items, scale=1.0, levels=0, seed=0):
    """Cosines times `scale`, and references; `levels` is the number of different references, 0 for no ties."""
    rng = np.random.default_rng(seed)
    utility = scale * rng.uniform(-1, 1, (rows, items))
    reference = rng.integers(0, levels, (rows, items)) / 4 if levels else rng.uniform(-1, 1, (rows, items))
    return utility.astype(np.float32), reference.astype(np.float32)


def assert_agrees(found, expected, rtol, atol):
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=rtol, atol=atol)


@BOTH
def test_two_items_by_hand(loss_fn):
    # Item 1 ranks first, chosen among both; item 0 is the last choice and costs nothing.
    loss, gradient = loss_and_gradient(loss_fn, np.float32([[0.5, 2.0]]), np.float32([[-1.0, 1.0]]))
    total = math.exp(0.5) + math.exp(2.0)
    assert loss[0] == pytest.approx(math.log(total) - 2.0, rel=1e-6)
    share = math.exp(0.5) / total
    np.testing.assert_allclose(gradient, [[share, -share]], rtol=1e-6)


@BOTH
def test_three_items_by_hand(loss_fn):
    # Order by reference: item 2, item 0, item 1.
    loss, gradient = loss_and_gradient(loss_fn, np.float32([[1.0, 0.0, -1.0]]), np.float32([[0.2, 0.1, 0.3]]))
    a, b, c = math.exp(1.0), 1.0, math.exp(-1.0)
    all_three, last_two = a + b + c, a + b
    expected = (math.log(all_three) + 1.0) + (math.log(last_two) - 1.0) + (math.log(b) - 0.0)
    assert loss[0] == pytest.approx(expected, rel=1e-6)
    by_hand = [a / all_three + a / last_two - 1, b / all_three + b / last_two + 1 - 1, c / all_three - 1]
    np.testing.assert_allclose(gradient[0], by_hand, rtol=1e-5, atol=1e-7)


def test_tied_items_share_one_denominator_by_hand():
    utility, reference = np.float32([[1.0, 0.0, -1.0]]), np.float32([[0.5, 0.5, 0.1]])
    loss, _ = loss_and_gradient(listmle_exact, utility, reference)
    all_three = math.exp(1.0) + 1.0 + math.exp(-1.0)
    expected = (math.log(all_three) - 1.0) + (math.log(all_three) - 0.0) + (-1.0 + 1.0)
    assert loss[0] == pytest.approx(expected, rel=1e-6)


def test_all_equal_references_by_hand():
    utility = np.float32([[3.0, -2.0, 0.5, 1.0]])
    loss, gradient = loss_and_gradient(listmle_exact, utility, np.zeros((1, 4), np.float32))
    exps = [math.exp(u) for u in utility[0]]
    assert loss[0] == pytest.approx(4 * math.log(sum(exps)) - utility.sum(), rel=1e-6)
    np.testing.assert_allclose(gradient[0], [4 * e / sum(exps) - 1 for e in exps], rtol=1e-5)


@BOTH
def test_one_item_costs_nothing(loss_fn):
    loss, gradient = loss_and_gradient(loss_fn, np.float32([[70.0], [-3.0]]), np.float32([[1.0], [0.0]]))
    np.testing.assert_allclose(loss, [0, 0], atol=1e-6)
    np.testing.assert_allclose(gradient, [[0], [0]], atol=1e-6)


@SCALES
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("items", [2, 13, 64])
def test_float32_against_the_oracle(scale, levels, items):
    utility, reference = random_lists(5, items, scale, levels)
    found = loss_and_gradient(listmle_exact, utility, reference)
    # The effect of one float32 rounding of such a utility on a gradient.
    rounding = 2e-5 + scale * 1e-6
    assert_agrees(found, oracle(utility, reference), rtol=rounding, atol=rounding)
    assert np.isfinite(found[1]).all()


@SCALES
def test_float64_against_the_oracle(scale):
    utility, reference = random_lists(4, 31, scale, levels=9)
    with jax.enable_x64(True):
        found = loss_and_gradient(listmle_exact, utility.astype(np.float64), reference.astype(np.float64))
    assert {array.dtype for array in found} == {np.dtype("float64")}
    assert_agrees(found, oracle(utility, reference), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("best", ["best first", "best last"])
def test_huge_utilities(best):
    """+-1e4, where exp overflows in every float: a perfect order costs nothing, a reversed one the differences."""
    utility = np.float32([[1e4, 1e4 - 1, 0.0, -1e4]])
    reference = np.float32([[4, 3, 2, 1]]) if best == "best first" else np.float32([[1, 2, 3, 4]])
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference)
    assert_agrees((loss, gradient), oracle(utility, reference), rtol=1e-6, atol=1e-5)
    assert loss[0] < 1 if best == "best first" else loss[0] == pytest.approx(30_001, rel=1e-4)


@BOTH
def test_equal_utilities(loss_fn):
    """Every order is equally likely: the loss is log B!, and gradients depend on the rank only."""
    items = 7
    utility = np.full((2, items), -55.0, np.float32)
    reference = np.tile(np.arange(items, dtype=np.float32), (2, 1))
    loss, gradient = loss_and_gradient(loss_fn, utility, reference)
    np.testing.assert_allclose(loss, math.lgamma(items + 1), rtol=1e-6)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)
    assert gradient[0, -1] == pytest.approx(1 / items - 1, rel=1e-5)


def test_all_equal_utilities_and_references():
    loss, gradient = loss_and_gradient(listmle_exact, np.ones((3, 5), np.float32), np.ones((3, 5), np.float32))
    np.testing.assert_allclose(loss, 5 * math.log(5), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_ties_make_the_order_of_the_items_irrelevant():
    utility, reference = random_lists(6, 40, 20.0, levels=4)
    order = np.random.default_rng(1).permutation(40)
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference)
    permuted_loss, permuted_gradient = loss_and_gradient(listmle_exact, utility[:, order], reference[:, order])
    np.testing.assert_allclose(permuted_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(permuted_gradient, gradient[:, order], rtol=1e-4, atol=1e-5)


def test_released_ties_keep_their_argsort_order():
    """Unlike in `exact`, the index in the batch decides which of two equal items ranks higher."""
    utility, reference = np.float32([[2.0, -2.0]]), np.zeros((1, 2), np.float32)
    there, _ = loss_and_gradient(listmle_released, utility, reference)
    back, _ = loss_and_gradient(listmle_released, utility[:, ::-1], reference)
    assert abs(there[0] - back[0]) == pytest.approx(4.0, rel=1e-5)


def test_identical_items_get_equal_gradients():
    utility, reference = random_lists(6, 20, 14.3)
    utility[:, 17], reference[:, 17] = utility[:, 3], reference[:, 3]
    _, gradient = loss_and_gradient(listmle_exact, utility, reference)
    np.testing.assert_allclose(gradient[:, 17], gradient[:, 3], rtol=1e-6, atol=1e-7)


def test_both_zeros_are_the_same_reference():
    utility = np.float32([[1.0, 3.0, -2.0]])
    plus, _ = loss_and_gradient(listmle_exact, utility, np.float32([[0.0, 0.0, -1.0]]))
    mixed, _ = loss_and_gradient(listmle_exact, utility, np.float32([[0.0, -0.0, -1.0]]))
    assert plus[0] == mixed[0]


@BOTH
@pytest.mark.parametrize("column", [0, 3, 6])
@pytest.mark.parametrize("where", ["utility", "reference"])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_never_hidden(loss_fn, column, where, sign):
    lists = dict(zip(("utility", "reference"), random_lists(2, 7, 10.0), strict=True))
    lists[where][0, column] = np.copysign(np.nan, sign)
    loss, _ = loss_and_gradient(loss_fn, **lists)
    assert np.isnan(loss[0])
    assert np.isfinite(loss[1])  # and it stays in its row


@BOTH
def test_reference_carries_no_gradient(loss_fn):
    utility, reference = random_lists(3, 6, 5.0)
    gradient = jax.jit(jax.grad(lambda r: loss_fn(utility, r).sum()))(reference)
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_is_that_of_finite_differences():
    utility, reference = (x.astype(np.float64) for x in random_lists(1, 5, 2.0, levels=3))
    with jax.enable_x64(True):
        _, gradient = loss_and_gradient(listmle_exact, utility, reference)
        for item in range(5):
            up, down = utility.copy(), utility.copy()
            up[0, item], down[0, item] = utility[0, item] + 1e-5, utility[0, item] - 1e-5
            above, below = (loss_and_gradient(listmle_exact, u, reference)[0][0] for u in (up, down))
            assert gradient[0, item] == pytest.approx((above - below) / 2e-5, abs=1e-8)


def test_cotangents_scale_each_row():
    utility, reference = random_lists(3, 6, 5.0)
    _, each = loss_and_gradient(listmle_exact, utility, reference)
    _, weighted = loss_and_gradient(listmle_exact, utility, reference, np.float32([2, 0, -1]))
    np.testing.assert_allclose(weighted, each * np.float32([[2], [0], [-1]]), rtol=1e-6)


def test_the_example_of_the_docstring():
    example = doctest.DocTestParser().get_doctest(listmle_exact.__doc__, {}, "listmle_exact", None, 0)
    assert len(example.examples) == 5
    assert doctest.DocTestRunner().run(example).failed == 0


# The recurrences of accelerators, which CPUs use for utilities of any range only.


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("levels", [0, 1, 4])
def test_recurrences(scale, levels):
    utility, reference = random_lists(4, 29, scale, levels)
    order, ends = jax.jit(sorting.row_order)(reference)
    x_BC, ends_BC = np.take_along_axis(utility, np.asarray(order), axis=1).T, np.asarray(ends).T
    peak, total, tied = jax.jit(listmle._prefix_sums)(x_BC, ends_BC)
    held_peak, held_total, share = jax.jit(listmle._suffix_shares)(ends_BC, peak, total, tied)

    x = x_BC.astype(np.float64)
    np.testing.assert_array_equal(peak, np.maximum.accumulate(x_BC, axis=0))
    for k in range(29):
        sums = np.exp(x[: k + 1] - np.asarray(peak[k], np.float64)).sum(axis=0)
        np.testing.assert_allclose(total[k], sums, rtol=1e-5)
    for row in range(4):
        group = np.concatenate([[0], np.cumsum(ends_BC[:-1, row])])
        last = np.array([np.flatnonzero(group == g)[-1] for g in group])
        np.testing.assert_array_equal(tied[:, row], [k - np.flatnonzero(group == group[k])[0] + 1 for k in range(29)])
        np.testing.assert_array_equal(held_peak[:, row], np.asarray(peak)[last, row])
        np.testing.assert_array_equal(held_total[:, row], np.asarray(total)[last, row])
    wanted = oracle(x.T, np.cumsum(np.vstack([np.zeros((1, 4)), ends_BC[:-1]]), axis=0).T)[1].T
    np.testing.assert_allclose(np.exp(x_BC - peak) * share - 1, wanted, rtol=1e-4, atol=1e-4)


# The effect of the released epsilon.


def in_modal_lists(scale, batch=128, cosine=0.3):
    """Two modalities of unit vectors whose cosines are about `cosine`."""
    rng = np.random.default_rng(0)
    both = []
    for _ in range(2):
        x = rng.normal(size=(batch, 256)) / 16 * math.sqrt(1 - cosine)
        x[:, 0] += math.sqrt(cosine)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        both.append((x @ x.T).astype(np.float32))
    return np.float32(scale) * both[0], both[1]


@pytest.mark.parametrize(("scale", "released", "tolerance"), [(14.3, 0, 0.1), (60.0, -127, 2), (100.0, -127, 0.1)])
def test_released_epsilon_erases_the_ranking(scale, released, tolerance):
    """If s (1 - cos) > 23, each off-diagonal entry has gradient -1 for any rank; in `exact` it depends on the rank."""
    utility, reference = in_modal_lists(scale)
    off_diagonal = ~np.eye(128, dtype=bool)
    sums = {}
    for loss_fn in (listmle_exact, listmle_released):
        _, gradient = loss_and_gradient(loss_fn, utility, reference)
        sums[loss_fn] = np.where(off_diagonal, gradient, 0).sum(axis=1).mean()
    assert sums[listmle_exact] == pytest.approx(0, abs=0.05)
    assert sums[listmle_released] == pytest.approx(released, abs=tolerance)
