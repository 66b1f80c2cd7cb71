"""Kendall's tau and Spearman's rho of many pairs of lists; tied items count as no agreement.

Letters: A pairs of lists, n items of a list.

Both use the denominator of lists without ties (as in tau-a). So tied items contribute 0, and a constant list scores 0,
never NaN. Without ties they equal tau-b and the usual rho.
"""

import numpy as np


def kendall_tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return tau-a, float64 [A]: (concordant - discordant) / (n (n - 1) / 2) pairs of items.

    scipy computes tau-b = (concordant - discordant) / sqrt(u_x u_y), where u_x is the number of pairs of items that
    are not tied in x; so tau-a = tau-b sqrt(u_x u_y) / (n (n - 1) / 2).

    Args:
      x, y: finite values [A, n].
    """
    from scipy.stats import kendalltau  # seconds to import: not before the first evaluation

    n = x.shape[-1]
    if n < 2:
        return np.zeros(len(x))
    tau_b = np.array([kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)])
    return np.nan_to_num(tau_b) * np.sqrt(_untied_pairs(x) * _untied_pairs(y)) / (n * (n - 1) / 2)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return float64 [A]: the sum of products of centred average ranks, divided by (n^3 - n) / 12.

    Args:
      x, y: finite values [A, n].
    """
    from scipy.stats import rankdata

    n = x.shape[-1]
    centre = (n + 1) / 2
    covariance = ((rankdata(x, axis=-1) - centre) * (rankdata(y, axis=-1) - centre)).sum(axis=-1)
    return covariance / ((n**3 - n) / 12 or 1)


def _untied_pairs(x: np.ndarray) -> np.ndarray:
    """Return float64 [A]: the number of pairs of items with different values."""
    from scipy.stats import rankdata

    # An item's last rank minus its first is the number of other items with its value: each tied pair counts twice.
    tied = (rankdata(x, "max", axis=-1) - rankdata(x, "min", axis=-1)).sum(axis=-1) / 2
    return x.shape[-1] * (x.shape[-1] - 1) / 2 - tied
