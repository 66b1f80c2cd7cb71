"""Kendall's tau and Spearman's rho of many pairs of lists at once, with ties counted as no agreement.

Letters: A pairs of lists, n items of a list.

Both are the "a" forms: the denominator is that of lists without ties, so tied items contribute nothing and a
constant list scores 0 (never NaN). Without ties they equal the usual tau-b and rho.
"""

import numpy as np


def kendall_tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return float64 [A]: tau-a = (concordant - discordant) / (n (n - 1) / 2), in O(n log^2 n) a list.

    Knight (1966): sort by x (then y); the discordant pairs are the inversions that remain in y.

    Args:
      x: finite numbers [A, n].
      y: finite numbers [A, n].
    """
    pairs = x.shape[-1] * (x.shape[-1] - 1) / 2
    x_codes, y_codes = _dense_ranks(x), _dense_ranks(y)
    order = np.lexsort((y_codes, x_codes), axis=-1)
    discordant = _inversions(np.take_along_axis(y_codes, order, axis=-1))
    both = _tied_pairs(x_codes * x.shape[-1] + y_codes)
    tied_in_either = _tied_pairs(x_codes) + _tied_pairs(y_codes) - both
    return (pairs - tied_in_either - 2 * discordant) / (pairs or 1)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return float64 [A]: sum of products of centred average ranks, over (n^3 - n) / 12.

    Args:
      x: finite numbers [A, n].
      y: finite numbers [A, n].
    """
    n = x.shape[-1]
    centre = (n - 1) / 2
    covariance = ((_average_ranks(x) - centre) * (_average_ranks(y) - centre)).sum(axis=-1)
    return covariance / ((n**3 - n) / 12 or 1)


def _inversions(ranks: np.ndarray) -> np.ndarray:
    """Return int [A]: pairs i < j with ranks[i] > ranks[j], for whole numbers in [0, n).

    Radix order, highest bit first: a pair is counted at the first bit in which its ranks differ, where both
    still lie in one run of equal prefixes and the order inside the run is the original one.
    """
    count = np.zeros(ranks.shape[:-1], np.int64)
    for bit in reversed(range(max(1, ranks.shape[-1] - 1).bit_length())):
        ones = (ranks >> bit) & 1
        ones_before = np.cumsum(ones, axis=-1) - ones
        at_run_start = np.where(_run_starts(ranks >> (bit + 1)), ones_before, 0)
        in_run = ones_before - np.maximum.accumulate(at_run_start, axis=-1)
        count += (in_run * (1 - ones)).sum(axis=-1)
        order = np.argsort(ranks >> bit, axis=-1, kind="stable")
        ranks = np.take_along_axis(ranks, order, axis=-1)
    return count


def _dense_ranks(x: np.ndarray) -> np.ndarray:
    """Return int64 [A, n]: 0 for the smallest value of a row, equal values sharing a number."""
    order = np.argsort(x, axis=-1)
    starts = _run_starts(np.take_along_axis(x, order, axis=-1))
    ranks = np.empty(x.shape, np.int64)
    np.put_along_axis(ranks, order, np.cumsum(starts, axis=-1) - 1, axis=-1)
    return ranks


def _average_ranks(x: np.ndarray) -> np.ndarray:
    """Return float64 [A, n]: rank from 0, equal values sharing the mean of their places."""
    order = np.argsort(x, axis=-1)
    starts = _run_starts(np.take_along_axis(x, order, axis=-1))
    place = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=-1)
    ends = np.concatenate([starts[..., 1:], np.ones_like(starts[..., :1])], axis=-1)
    last = np.minimum.accumulate(np.where(ends, place, x.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=-1)
    return ranks


def _tied_pairs(codes: np.ndarray) -> np.ndarray:
    """Return int [A]: number of pairs with equal codes (the o-th item of a run ties with o before it)."""
    starts = _run_starts(np.sort(codes, axis=-1))
    place = np.broadcast_to(np.arange(codes.shape[-1]), codes.shape)
    return (place - np.maximum.accumulate(np.where(starts, place, 0), axis=-1)).sum(axis=-1)


def _run_starts(ordered: np.ndarray) -> np.ndarray:
    """Return bool [A, n]: True where a run of equal values begins."""
    changed = ordered[..., 1:] != ordered[..., :-1]
    return np.concatenate([np.ones_like(changed, shape=(*ordered.shape[:-1], 1)), changed], axis=-1)
