"""Rank correlations against scipy and brute force; ties, NaN and collapsed embeddings; geometry."""

import itertools

import numpy as np
import pytest
import scipy.stats

from rankclip_jax.evals import similarity
from rankclip_jax.evals.geometry import geometry
from rankclip_jax.evals.rank_consistency import CORRELATIONS, rank_consistency
from rankclip_jax.evals.rank_correlation import kendall_tau, spearman


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("n", [2, 3, 8, 33, 250])
def test_correlations_equal_scipy_without_ties(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, 5, n))
    tau = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    rho = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(kendall_tau(x, y), tau, atol=1e-12)
    np.testing.assert_allclose(spearman(x, y), rho, atol=1e-12)


@pytest.mark.parametrize("n_values", [1, 2, 5])
def test_tau_with_ties_equals_a_loop_over_all_pairs(n_values):
    rng = np.random.default_rng(n_values)
    x, y = rng.integers(0, n_values, size=(2, 4, 19)).astype(float)
    for row, (a, b) in enumerate(zip(x, y, strict=True)):
        pairs = list(itertools.combinations(range(19), 2))
        agreement = sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs) / len(pairs)
        assert kendall_tau(x, y)[row] == pytest.approx(agreement, abs=1e-12)


def test_spearman_with_ties_uses_average_ranks_over_the_untied_denominator():
    x, y = np.array([[1.0, 1, 2, 3]]), np.array([[5.0, 6, 7, 7]])
    ranks_x, ranks_y = (scipy.stats.rankdata(a[0]) - 2.5 for a in (x, y))
    assert spearman(x, y)[0] == pytest.approx((ranks_x * ranks_y).sum() / ((4**3 - 4) / 12))
    assert spearman(np.ones((1, 4)), y)[0] == kendall_tau(np.ones((1, 4)), y)[0] == 0


def test_consistency_equals_scipy_anchor_by_anchor(monkeypatch):
    rng = np.random.default_rng(0)
    v, t = unit(rng, 40, 8), unit(rng, 40, 8)
    v64, t64 = v.astype(np.float64), t.astype(np.float64)

    def mean(measure, a, b):
        lists = [(np.delete(a[i], i), np.delete(b[i], i)) for i in range(40)]
        return np.mean([measure(*pair).statistic for pair in lists])

    found = rank_consistency(v, t)
    in_modal, cross = (v64 @ v64.T, t64 @ t64.T), (v64 @ t64.T, t64 @ v64.T)
    assert found["in_modal_kendall_tau"] == pytest.approx(mean(scipy.stats.kendalltau, *in_modal), abs=1e-9)
    assert found["in_modal_spearman"] == pytest.approx(mean(scipy.stats.spearmanr, *in_modal), abs=1e-9)
    assert found["cross_modal_kendall_tau"] == pytest.approx(mean(scipy.stats.kendalltau, *cross), abs=1e-9)
    assert found["cross_modal_spearman"] == pytest.approx(mean(scipy.stats.spearmanr, *cross), abs=1e-9)
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 1000)
    blocked = rank_consistency(v, t)
    assert blocked == pytest.approx(found, abs=1e-12)


def test_consistency_is_one_for_equal_and_zero_for_random_or_collapsed():
    rng = np.random.default_rng(1)
    v, t = unit(rng, 300, 24), unit(rng, 300, 24)
    assert rank_consistency(v, v) == pytest.approx(dict.fromkeys(CORRELATIONS, 1))
    # Tau of one list has variance 2(2n+5) / 9n(n-1) = 0.0015 for n = 299. Lists share images, so the mean varies more.
    assert all(abs(value) < 0.02 for value in rank_consistency(v, t).values())
    collapsed = np.repeat(v[:1], 300, axis=0)
    assert rank_consistency(collapsed, t) == rank_consistency(v, collapsed) == dict.fromkeys(CORRELATIONS, 0)


def test_every_nan_lowers_consistency():
    v = unit(np.random.default_rng(2), 50, 8)
    broken = v.copy()
    broken[::10] = np.nan
    found = rank_consistency(v, broken)
    # 45 of 50 anchors are valid, and 44 of the 49 items of each list.
    assert found["in_modal_kendall_tau"] == pytest.approx(0.9 * (44 * 43) / (49 * 48))
    assert found["in_modal_spearman"] == pytest.approx(0.9 * (44**3 - 44) / (49**3 - 49))
    assert rank_consistency(v * np.nan, v) == dict.fromkeys(CORRELATIONS, 0)


def test_consistency_of_a_random_subset_of_anchors():
    rng = np.random.default_rng(3)
    v = unit(rng, 400, 16)
    t = v + 0.3 * unit(rng, 400, 16)
    every, some = rank_consistency(v, t, max_anchors=400), rank_consistency(v, t, max_anchors=100)
    assert some == rank_consistency(v, t, max_anchors=100)
    assert some["in_modal_kendall_tau"] == pytest.approx(every["in_modal_kendall_tau"], abs=0.02)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_pairs_have_no_order(n):
    assert rank_consistency(np.eye(n), np.eye(n)) == dict.fromkeys(CORRELATIONS, 0)


def test_geometry_by_hand_and_with_nan():
    v, t = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0], [1, 0]])
    found = geometry(v, t)
    assert found["alignment"] == pytest.approx(1)  # 0 and 2
    assert found["uniformity"] == pytest.approx(-4)  # the only pair i > j: |v_1 - t_0|^2 = 2
    assert found["modality_gap"] == pytest.approx(np.sqrt(0.5))
    more = np.random.default_rng(6).normal(size=(9, 2, 4))
    below = [np.exp(-2 * ((more[i, 0] - more[j, 1]) ** 2).sum()) for i in range(9) for j in range(i)]
    assert geometry(more[:, 0], more[:, 1])["uniformity"] == pytest.approx(np.log(np.mean(below)))
    assert geometry(v * np.nan, t) == {"alignment": 4, "uniformity": 0, "modality_gap": 2}
    assert geometry(v[:1], t[:1]) == {"alignment": 0, "uniformity": 0, "modality_gap": 0}
