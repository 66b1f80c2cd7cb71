"""Counts repeated values in bounded memory."""

import numpy as np

KEPT = 1 << 23  # distinct values: 134 MB, and twice as much for a moment while values are added
PENDING = 1 << 20  # values that are added at a time


class Repeats:
    """Counts values by their hashes, exactly for at most `KEPT` distinct values.

    With more values it counts a sample of the distinct values: those whose hashes end with `bits` zero bits. Each value
    is either counted completely or not at all, so the results are estimates without a bias. `bits` grows as needed.

    Attributes:
      total: number of values.
      is_exact: whether all values are counted.
    """

    def __init__(self, kept: int = KEPT):
        self._limit, self._bits = kept, 0
        self._hashes, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._num_pending = self.total = 0

    @property
    def is_exact(self) -> bool:
        return self._bits == 0

    def add(self, hashes: np.ndarray) -> None:
        """Add values by their hashes, int64 [n]."""
        self.total += len(hashes)
        self._pending.append(self._sampled(hashes))
        self._num_pending += len(self._pending[-1])
        if self._num_pending >= PENDING:
            self._merge()

    def repeats(self) -> int:
        """Number of values that equal an earlier one."""
        self._merge()
        return int((self._counts - 1).sum()) << self._bits

    def repeated(self) -> int:
        """Number of distinct values that occur more than once."""
        self._merge()
        return int((self._counts > 1).sum()) << self._bits

    def _sampled(self, hashes: np.ndarray) -> np.ndarray:
        return hashes[hashes & ((1 << self._bits) - 1) == 0]

    def _merge(self) -> None:
        if not self._pending:
            return
        new, counts = np.unique(np.concatenate(self._pending), return_counts=True)
        self._pending, self._num_pending = [], 0
        places = np.searchsorted(self._hashes, new)
        known = places < len(self._hashes)
        known[known] = self._hashes[places[known]] == new[known]
        self._counts[places[known]] += counts[known]
        self._hashes = np.insert(self._hashes, places[~known], new[~known])
        self._counts = np.insert(self._counts, places[~known], counts[~known])
        while len(self._hashes) > self._limit:
            self._bits += 1
            is_kept = self._hashes & ((1 << self._bits) - 1) == 0
            self._hashes, self._counts = self._hashes[is_kept], self._counts[is_kept]
