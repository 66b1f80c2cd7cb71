"""Cosine scores rounded to a grid: equal embeddings have exactly equal scores. They are read in tiles.

Letters: Q queries, C candidates, D embedding.

Equal embeddings may get different bits in a matrix product: the kernel for the last few columns may add in another
order. This rounding noise could decide the ties of a collapsed model. Scores are therefore computed in float64 and
rounded to multiples of 1e-9: far coarser than the noise (1e-16), and far finer than the resolution of float32
embeddings (1e-7).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

STEPS = 1e9  # score steps per unit of cosine, an integer
BLOCK_ELEMENTS = 2**20  # largest number of scores in memory at a time: 8 MB of float64, which fits a CPU's cache

Lines = slice | np.ndarray  # rows or columns of the scores


class ScoreTable(Protocol):
    """Scores of Q queries and C candidates, computed where they are read.

    Attributes:
      shape: (Q, C).
    """

    shape: tuple[int, int]

    def tile(self, rows: Lines, columns: Lines) -> np.ndarray:
        """Return float64 [rows, columns]: integers, or NaN where a score is not finite."""


class Scores:
    """Quantised inner products of unit-norm embeddings, a `ScoreTable`.

    Attributes:
      queries: float64 [Q, D].
      candidates: float64 [C, D].
      shape: (Q, C).
    """

    def __init__(self, queries: np.ndarray, candidates: np.ndarray):
        self.queries = np.asarray(queries, np.float64)
        self.candidates = np.asarray(candidates, np.float64)
        self.shape = len(self.queries), len(self.candidates)

    def tile(self, rows: Lines, columns: Lines = slice(None)) -> np.ndarray:
        """Return float64 [rows, columns]: integers, or NaN where a score is not finite."""
        with np.errstate(invalid="ignore"):  # NaN embeddings are handled by each metric
            return quantise(self.queries[rows] @ self.candidates[columns].T)


TileReader = Callable[[slice, slice, np.ndarray], None]  # (rows, columns, scores of the tile)


def read_tiles(scores: ScoreTable, readers: Sequence[TileReader]) -> None:
    """Compute every score once, and pass each tile to all readers."""
    for rows, columns in tiles(*scores.shape):
        tile = scores.tile(rows, columns)
        for read in readers:
            read(rows, columns, tile)


def quantise(scores: np.ndarray) -> np.ndarray:
    """Return ``round(scores * STEPS)`` as float64 integers; values that are not finite become NaN."""
    units = np.multiply(scores, STEPS, dtype=np.float64)
    np.rint(units, out=units)
    infinite = np.isinf(units)
    if infinite.any():
        units[infinite] = np.nan
    return units


def tiles(n_queries: int, n_candidates: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of tiles that cover the scores, each with at most `BLOCK_ELEMENTS`, square if possible."""
    width = max(1, min(n_candidates, math.isqrt(BLOCK_ELEMENTS)))
    for rows in row_blocks(n_queries, width):
        for start in range(0, n_candidates, width):
            yield rows, slice(start, min(start + width, n_candidates))


def row_blocks(n_queries: int, n_candidates: int) -> Iterator[slice]:
    """Yield slices that cover ``n_queries`` rows, each with at most ``BLOCK_ELEMENTS`` scores."""
    size = max(1, BLOCK_ELEMENTS // max(1, n_candidates))
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))


def finite_rows(*embeds: np.ndarray) -> np.ndarray:
    """Return bool [N]: rows that are finite in every one of the [N, D] arrays."""
    return np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in embeds])
