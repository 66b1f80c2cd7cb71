"""A fixed random permutation of N numbers as a function: no array of size N exists.

Grain's `index_shuffle`, which orders the epochs, is such a function too, but has no inverse. The choice of pairs needs
both directions: which pair is at a position, and at which position is a quarantined pair.
"""

import math
from typing import TypeVar

import numpy as np

ROUNDS = 8
MASK = (1 << 64) - 1
Numbers = TypeVar("Numbers", int, np.ndarray)


class Permutation:
    """A permutation of range(size), determined by `size` and `seed`; `size` is at least 1 and less than 2^62.

    It is a Feistel network on pairs (a, b) with a < A and b < B, where A * B is the smallest such product that is at
    least `size`. Results outside the range are permuted again, until they are inside. This happens rarely.

    Both functions take an int, or int64 [n], and return the same.
    """

    def __init__(self, size: int, seed: int):
        self._size = size
        self._a = math.isqrt(size - 1) + 1 if size > 1 else 1
        self._b = -(-size // self._a)
        self._keys = [int(key) for key in np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)]

    def at(self, positions: Numbers) -> Numbers:
        """The number at a position."""
        return self._inside(positions, self._forward)

    def position_of(self, numbers: Numbers) -> Numbers:
        """The position of a number: the inverse of `at`."""
        return self._inside(numbers, self._backward)

    def _inside(self, values, step):
        if not isinstance(values, np.ndarray):
            value = step(values)
            while value >= self._size:
                value = step(value)
            return value
        found = step(values.astype(np.uint64))
        while (outside := found >= self._size).any():
            found[outside] = step(found[outside])
        return found.astype(np.int64)

    def _forward(self, value):
        a, b = value % self._a, value // self._a
        for round_, key in enumerate(self._keys):
            if round_ % 2:
                b = (b + _mixed(a, key) % self._b) % self._b
            else:
                a = (a + _mixed(b, key) % self._a) % self._a
        return b * self._a + a

    def _backward(self, value):
        a, b = value % self._a, value // self._a
        for round_, key in reversed([*enumerate(self._keys)]):
            if round_ % 2:
                b = (b + self._b - _mixed(a, key) % self._b) % self._b
            else:
                a = (a + self._a - _mixed(b, key) % self._a) % self._a
        return b * self._a + a


def _mixed(value, key: int):
    """The finaliser of SplitMix64, of one number or of each number in uint64 [n]."""
    value = (value ^ key) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
