"""Cosine scores in blocks of rows, on a grid that makes equal embeddings tie exactly.

Letters: Q queries, M candidates, D embedding.

A matrix product does not promise that two equal columns give bit-equal scores (the kernel for the last few
columns may sum in another order), so a collapsed model could win or lose its ties by rounding noise. Scores
are therefore computed in float64 and rounded to steps of 1e-9: far above the noise of that sum (1e-16), far
below the resolution of the float32 embeddings themselves (1e-7).
"""

from collections.abc import Callable, Iterator

import numpy as np

STEPS = 1e9  # score steps per unit of cosine, a whole number
BLOCK_ELEMENTS = 2**22  # 32 MB of float64 scores at a time, whatever the size of the split

ScoreRows = Callable[[slice], np.ndarray]


def quantise(scores: np.ndarray) -> np.ndarray:
    """Return float64 whole numbers, ``round(scores * STEPS)``; whatever is not finite becomes NaN."""
    units = np.round(np.asarray(scores, np.float64) * STEPS)
    return np.where(np.isfinite(units), units, np.nan)


def score_rows(queries: np.ndarray, candidates: np.ndarray) -> ScoreRows:
    """Return ``rows(slice) -> float64 [len(slice), M]``: quantised inner products of unit-norm embeddings.

    Args:
      queries: float [Q, D].
      candidates: float [M, D].
    """
    candidates_DM = np.asarray(candidates, np.float64).T

    def rows(block: slice) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # NaN embeddings are judged by the metric, not warned about here
            return quantise(np.asarray(queries[block], np.float64) @ candidates_DM)

    return rows


def row_blocks(n_queries: int, n_candidates: int) -> Iterator[slice]:
    """Yield slices that cover ``n_queries`` rows, each block at most ``BLOCK_ELEMENTS`` scores."""
    size = max(1, BLOCK_ELEMENTS // max(1, n_candidates))
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))


def finite_rows(*embeds: np.ndarray) -> np.ndarray:
    """Return bool [N]: rows that are finite in every one of the [N, D] arrays."""
    return np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in embeds])
