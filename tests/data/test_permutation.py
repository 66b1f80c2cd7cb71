"""The permutation by brute force, and the indices that are computed from it."""

import numpy as np
import pytest

from rankclip_jax.data.indices import Complement, Drawn
from rankclip_jax.data.permutation import Permutation

HUGE = (2_000_000_000, 2**31 + 11, 2**32 + 1, 5 * 10**12)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 12_345])
def test_it_is_a_permutation_with_an_inverse(size):
    numbers = np.arange(size)
    order = Permutation(size, 3).at(numbers)
    np.testing.assert_array_equal(np.sort(order), numbers)
    np.testing.assert_array_equal(Permutation(size, 3).position_of(order), numbers)
    single = Permutation(size, 3)
    assert [single.at(position) for position in range(size)] == order.tolist()
    assert [single.position_of(number) for number in order.tolist()] == numbers.tolist()


@pytest.mark.parametrize("size", HUGE)
def test_huge_sizes(size):
    permutation, positions = Permutation(size, 0), np.arange(size - 50_000, size)
    order = permutation.at(positions)
    assert len(np.unique(order)) == 50_000 and order.min() >= 0 and order.max() < size
    np.testing.assert_array_equal(permutation.position_of(order), positions)
    assert permutation.at(size - 1) == order[-1] and isinstance(permutation.at(size - 1), int)


def test_it_looks_random():
    """Uniform by a chi-squared test of 100 bins, without correlation of neighbours; another seed, another order."""
    size, draws = 2_000_000_000, 100_000
    order = Permutation(size, 1).at(np.arange(draws))
    counts = np.bincount(order * 100 // size, minlength=100)
    expected = draws / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # 99 expected, standard deviation 14
    assert np.bincount(order % 64, minlength=64).min() > 1350  # 1562 expected, standard deviation 39
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.015
    assert not set(order[:1000]) & set(Permutation(size, 2).at(np.arange(1000)))


def test_the_complement_by_brute_force():
    rng = np.random.default_rng(0)
    for excluded in (
        [],
        [0],
        [19],
        [0, 1, 2, 18, 19],
        [*range(20)],
        *(np.flatnonzero(rng.random(20) < 0.4) for _ in range(20)),
    ):
        found = Complement(20, np.array(excluded, np.int64))
        assert [*found] == sorted({*range(20)} - {*excluded}) and len(found) == 20 - len(excluded)
    huge = Complement(3_000_000_000, np.array([5, 2_999_999_999]))
    assert (huge[4], huge[5], huge[2_999_999_997], len(huge)) == (4, 6, 2_999_999_998, 2_999_999_998)
    with pytest.raises(IndexError):
        huge[2_999_999_998]


def test_drawn_indices_skip_positions():
    order = Permutation(50, 7)
    found = Drawn(order, start=10, count=20, excluded=np.array([3, 10, 11, 25, 49]))
    positions = [position for position in range(10, 50) if position not in (10, 11, 25, 49)][:20]
    assert [*found] == [order.at(position) for position in positions] and len(found) == 20
