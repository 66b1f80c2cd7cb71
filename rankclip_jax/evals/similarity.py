"""Cosine scores rounded to a grid: equal embeddings have exactly equal scores.

Letters: Q queries, C candidates, D embedding.

Equal embeddings may get different bits in a matrix product: the kernel for the last few columns may add in another
order. This rounding noise could decide the ties of a collapsed model. Scores are therefore computed in float64 and
rounded to multiples of 1e-9: far coarser than the noise (1e-16), and far finer than the resolution of float32
embeddings (1e-7).
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

STEPS = 1e9  # score steps per unit of cosine, an integer
BLOCK_ELEMENTS = 2**22  # largest number of scores in memory at a time: 32 MB of float64

ScoreRows = Callable[[slice], np.ndarray]


class Scores:
    """Quantised inner products of unit-norm embeddings, read in blocks of rows or of columns.

    A matrix of at most `BLOCK_ELEMENTS` scores is computed once and kept. The blocks of a larger one are computed when
    they are read.

    Attributes:
      queries: float64 [Q, D].
      candidates: float64 [C, D].
    """

    def __init__(self, queries: np.ndarray, candidates: np.ndarray):
        self.queries = np.asarray(queries, np.float64)
        self.candidates = np.asarray(candidates, np.float64)

    def rows(self, block: slice) -> np.ndarray:
        """Return float64 [rows of the block, C]: integers, or NaN where a score is not finite."""
        if self._matrix is not None:
            return self._matrix[block]
        return _products(self.queries[block], self.candidates)

    def columns(self, block: slice) -> np.ndarray:
        """Return float64 [columns of the block, Q]: the rows of the transposed matrix."""
        if self._matrix is not None:
            return self._matrix[:, block].T
        return _products(self.candidates[block], self.queries)

    @functools.cached_property
    def _matrix(self) -> np.ndarray | None:
        fits = len(self.queries) * len(self.candidates) <= BLOCK_ELEMENTS
        return _products(self.queries, self.candidates) if fits else None


def _products(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN embeddings are handled by each metric
        return quantise(queries @ candidates.T)


def quantise(scores: np.ndarray) -> np.ndarray:
    """Return ``round(scores * STEPS)`` as float64 integers; values that are not finite become NaN."""
    units = np.round(np.asarray(scores, np.float64) * STEPS)
    return np.where(np.isfinite(units), units, np.nan)


def row_blocks(n_queries: int, n_candidates: int) -> Iterator[slice]:
    """Yield slices that cover ``n_queries`` rows, each with at most ``BLOCK_ELEMENTS`` scores."""
    size = max(1, BLOCK_ELEMENTS // max(1, n_candidates))
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))


def finite_rows(*embeds: np.ndarray) -> np.ndarray:
    """Return bool [N]: rows that are finite in every one of the [N, D] arrays."""
    return np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in embeds])
