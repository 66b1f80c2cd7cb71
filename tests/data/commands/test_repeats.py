"""Counts of repeated values against Python's Counter."""

from collections import Counter

import numpy as np

from rankclip_jax.data.commands.repeats import Repeats


def counted(values, kept, chunk=1000):
    found = Repeats(kept)
    for start in range(0, len(values), chunk):
        found.add(values[start : start + chunk])
    return found


def values(count, distinct):
    rng = np.random.default_rng(0)
    return rng.integers(-(2**63), 2**63, distinct)[rng.integers(0, distinct, count)]


def test_exact_while_there_is_room(monkeypatch):
    monkeypatch.setattr("rankclip_jax.data.commands.repeats.PENDING", 2500)
    drawn = values(20_000, 15_000)
    found, counts = counted(drawn, kept=15_000), Counter(drawn.tolist()).values()
    assert found.is_exact and found.total == 20_000
    assert found.repeats() == 20_000 - len(counts) and found.repeated() == sum(count > 1 for count in counts)
    assert (Repeats().repeats(), Repeats().repeated()) == (0, 0)


def test_estimates_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("rankclip_jax.data.commands.repeats.PENDING", 10_000)
    drawn = values(400_000, 200_000)
    found, counts = counted(drawn, kept=10_000), Counter(drawn.tolist()).values()
    assert not found.is_exact and len(found._hashes) <= 10_000
    assert abs(found.repeats() / (400_000 - len(counts)) - 1) < 0.06
    assert abs(found.repeated() / sum(count > 1 for count in counts) - 1) < 0.06
