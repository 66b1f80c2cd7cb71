"""Sequences of indices that are computed on access: their memory does not depend on the number of indices."""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.data.permutation import Permutation

Indices = Sequence[int] | np.ndarray


class Complement(Sequence[int]):
    """The numbers of range(size), ascending, without those in `excluded`: int [e], ascending and distinct.

    The memory is that of `excluded`; access takes a binary search.
    """

    def __init__(self, size: int, excluded: np.ndarray):
        # excluded[j] - j numbers that are kept come before excluded[j].
        self._size, self._kept_before = size, excluded - np.arange(len(excluded))

    def __len__(self) -> int:
        return self._size - len(self._kept_before)

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(f"{position} of {len(self)}")
        return position + int(np.searchsorted(self._kept_before, position, "right"))


class Drawn(Sequence[int]):
    """`count` numbers of a permutation: those from position `start` on whose positions are not in `excluded`.

    Args:
      permutation: the permutation.
      start: the first position.
      count: number of indices.
      excluded: int [e], ascending and distinct: positions that are left out.
    """

    def __init__(self, permutation: Permutation, start: int, count: int, excluded: np.ndarray):
        excluded = excluded[excluded >= start] - start
        self._permutation, self._start, self._count = permutation, start, count
        self._positions = Complement(count + len(excluded), excluded)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"{index} of {self._count}")
        return self._permutation.at(self._start + self._positions[index])
