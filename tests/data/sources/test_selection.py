"""Which pairs are held out and trained on, by brute force, for any number of pairs."""

import resource
import time

import numpy as np
import pytest

from rankclip_jax.data.sources.selection import select, shares
from rankclip_jax.errors import UserError

NONE = np.zeros(0, np.int64)


def chosen(sizes, quarantined, num_held_out, limit):
    """Sets of (source, index): held-out and training pairs."""
    held_out, kept = select(sizes, quarantined, num_held_out, limit)
    return [{(source, index) for source, own in enumerate(found) for index in own} for found in (held_out, kept)]


@pytest.mark.parametrize("quarantined", [[NONE, NONE, NONE], [np.array([0, 3, 39]), NONE, np.arange(5)]])
def test_sets_are_disjoint_nested_and_complete(quarantined):
    sizes = [40, 25, 5]
    everything = {(source, index) for source, size in enumerate(sizes) for index in range(size)}
    bad = {(source, index) for source, own in enumerate(quarantined) for index in own}
    first, _ = chosen(sizes, [NONE] * 3, 20, 0)
    assert len(first) == 20
    smaller = set()
    for limit in (1, 7, 20, len(everything - first - bad)):
        held_out, train = chosen(sizes, quarantined, 20, limit)
        assert held_out == first - bad  # whatever the quarantine and the limit
        assert len(train) == limit and smaller <= train and not train & (first | bad)
        smaller = train
    assert smaller == everything - first - bad == chosen(sizes, quarantined, 20, 0)[1]
    assert first < chosen(sizes, [NONE] * 3, 30, 0)[0]
    assert {source for source, _ in first} == {0, 1, 2}


def test_shares_are_proportional_and_never_fall():
    rng = np.random.default_rng(0)
    for _ in range(60):
        sizes = [int(size) for size in rng.integers(0, 25, rng.integers(1, 6))] + [1]
        before = [0] * len(sizes)
        for total in range(sum(sizes) + 1):
            found = shares(total, sizes)
            assert sum(found) == total
            assert all(0 <= old <= new <= size for old, new, size in zip(before, found, sizes, strict=True))
            assert all(abs(new - total * size / sum(sizes)) < 2 for new, size in zip(found, sizes, strict=True))
            before = found
    assert shares(3000, [2_000_000_000, 1_000_000_000, 3]) == [2000, 1000, 0]


def test_too_few_pairs():
    for held_out, limit in ((10, 0), (0, 11), (5, 6), (99, 0)):
        with pytest.raises(UserError, match="exceed the 10 usable pairs: lower them"):
            select([6, 4], [NONE, NONE], held_out, limit)


@pytest.mark.parametrize("limit", [0, 400_000_000])
def test_billions_of_pairs_take_no_memory(limit):
    """A permutation of the pairs would have 16 GB, a mask 2 GB."""
    bad = np.sort(np.random.default_rng(0).choice(2_000_000_000, 1000))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    (held_out, _), (kept, _) = select([2_000_000_000, 3_000_000_000], [bad, NONE], 50_000, limit)
    drawn = [kept[index] for index in np.random.default_rng(1).integers(len(kept), size=2000).tolist()]
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert len(held_out) == 20_000 and not set(drawn) & ({*held_out.tolist()} | {*bad.tolist()})
    assert max(drawn) > 1_900_000_000 and min(drawn) < 100_000_000
