"""The two sorts of lists: only one of them runs on this platform, so the tests call both directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.objectives import sorting
from tests.objectives.test_listmle import random_lists


def sort_rows(sort, reference):
    """Order and ends of tie groups of float rows, by one of the sorts."""
    order, ends = jax.jit(lambda x: sort(sorting._ordered_bits(x)))(reference)
    return np.asarray(order), np.asarray(ends)


SORTS = pytest.mark.parametrize("sort", [sorting._sort_packed, sorting._sort_pairs])
HARD_ROWS = np.float32(
    [
        [3, 1, 2, 1, 3, 3, -1, 0],
        [0.0, -0.0, 0.0, -0.0, 1e-45, -1e-45, 0.0, -0.0],
        [np.inf, -np.inf, 1, -1, np.inf, -np.inf, 3e38, -3e38],
        [np.nan, 1, np.nan, -1, np.inf, -np.inf, 0, 2],
        [5, 5, 5, 5, 5, 5, 5, 5],
        [1, 1 + 2**-23, 1 - 2**-24, 1, 1 + 2**-23, -1, -1 - 2**-23, -1],
    ]
)


@SORTS
def test_sorts_are_stable_argsorts(sort):
    order, ends = sort_rows(sort, HARD_ROWS)
    # numpy also has -0 == +0, and NaN last. XLA flushes the subnormals of row 1 to zero.
    keys = np.where(np.abs(HARD_ROWS) < 1e-38, 0, HARD_ROWS)
    np.testing.assert_array_equal(order, np.argsort(keys, axis=1, kind="stable"))
    assert order.dtype == jnp.int32
    ascending = np.take_along_axis(keys, order, axis=1)
    ends_of_numbers = ends[~np.isnan(ascending)]
    follows = np.concatenate([ascending[:, :-1] != ascending[:, 1:], np.ones((len(keys), 1), bool)], axis=1)
    np.testing.assert_array_equal(ends_of_numbers, follows[~np.isnan(ascending)])


@SORTS
@pytest.mark.parametrize("items", [1, 2, 97, 128])
@pytest.mark.parametrize("levels", [0, 5])
def test_sorts_of_random_rows(sort, items, levels):
    _, reference = random_lists(8, items, levels=levels)
    order, ends = sort_rows(sort, reference)
    np.testing.assert_array_equal(order, np.argsort(reference, axis=1, kind="stable"))
    groups = [len(np.unique(row)) for row in reference]
    np.testing.assert_array_equal(ends.sum(axis=1), groups)
    assert ends[:, -1].all()


def test_sort_of_float64_sees_its_low_bits():
    near = np.array([[1.0, 1.0 + 2**-52, 1.0 - 2**-53, 1.0, -0.0, 0.0, np.inf]])
    with jax.enable_x64(True):
        order, ends = sorting.row_order(jnp.asarray(near))
    np.testing.assert_array_equal(order, np.argsort(near, axis=1, kind="stable"))
    np.testing.assert_array_equal(ends, [[False, True, True, False, True, True, True]])
