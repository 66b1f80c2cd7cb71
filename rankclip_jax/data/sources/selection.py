"""Chooses the pairs to train on and the pairs to hold out for `val`.

The choice follows one fixed permutation of the pairs of each source: its first pairs are held out, the next ones are
trained on. A larger limit keeps all pairs of a smaller limit. The choice is a function of the index: memory and time
depend on the number of held-out and quarantined pairs, but not on the number of pairs.
"""

import heapq
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from rankclip_jax.data.indices import Complement, Drawn, Indices
from rankclip_jax.data.permutation import Permutation
from rankclip_jax.errors import UserError

ORDER = 20_261_127  # seed of the permutations; another value would change the data of every run


def select(
    sizes: Sequence[int], quarantined: Sequence[np.ndarray], num_held_out: int, limit: int
) -> tuple[list[np.ndarray], list[Indices]]:
    """Choose the held-out pairs and the training pairs.

    Args:
      sizes: number of pairs of each source, quarantined pairs included.
      quarantined: int [q] for each source, ascending: indices of quarantined pairs.
      num_held_out: number of pairs to hold out, including quarantined pairs. Every source gives its share.
      limit: number of pairs to train on; 0 for all others. Every source gives its share.

    Returns:
      Held-out indices, int [n], ascending, for each source; and training indices for each source: ascending without a
      limit, in the order of the permutation with one.

    Raises:
      UserError: there are too few pairs.
    """
    sources = list(zip(sizes, quarantined, strict=True))
    if not sizes or not (num_held_out or limit):
        return [], [Complement(size, bad) for size, bad in sources]
    usable = sum(sizes) - sum(map(len, quarantined))
    if num_held_out >= sum(sizes):
        raise UserError(_too_few(num_held_out, limit, usable))
    held_out = [_first(size, count) for size, count in zip(sizes, shares(num_held_out, sizes), strict=True)]
    excluded = [np.union1d(own, bad) for own, bad in zip(held_out, quarantined, strict=True)]
    rest = [size - len(own) for size, own in zip(sizes, excluded, strict=True)]
    if sum(rest) < max(limit, 1):
        raise UserError(_too_few(num_held_out, limit, usable))
    counts = shares(limit, rest) if limit else rest
    kept = [
        _next(size, len(own), bad, count) if limit else Complement(size, out)
        for size, own, bad, out, count in zip(sizes, held_out, quarantined, excluded, counts, strict=True)
    ]
    return [np.setdiff1d(own, bad) for own, bad in zip(held_out, quarantined, strict=True)], kept


def _too_few(num_held_out: int, limit: int, usable: int) -> str:
    return f"config.data.train_limit={limit} and val_pairs={num_held_out} exceed the {usable} usable pairs: lower them."


def _first(size: int, count: int) -> np.ndarray:
    """int [count], ascending: the first indices of the permutation."""
    return np.sort(Permutation(size, ORDER).at(np.arange(count))) if count else np.zeros(0, np.int64)


def _next(size: int, start: int, quarantined: np.ndarray, count: int) -> Indices:
    """`count` indices of the permutation from position `start` on, without quarantined ones."""
    permutation = Permutation(size, ORDER)
    positions = permutation.position_of(quarantined) if len(quarantined) else quarantined
    return Drawn(permutation, start, count, np.sort(positions))


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` distributed in proportion to `sizes`, by the method of Webster; `total` is at most their sum.

    No share exceeds its size, and no share falls when `total` rises: this keeps the pairs of a smaller limit.
    """
    whole = sum(sizes)
    # Below this quota rounding cannot give more than `total`. The rest is given one by one.
    quota = Fraction(max(0, total - len(sizes)), whole)
    found = [max(0, -((1 - 2 * quota * size) // 2)) for size in sizes]  # ceil(quota * size - 1/2)
    queue = [
        (Fraction(2 * count + 1, size), i) for i, (count, size) in enumerate(zip(found, sizes, strict=True)) if size
    ]
    heapq.heapify(queue)
    for _ in range(total - sum(found)):
        _, i = queue[0]
        found[i] += 1
        heapq.heapreplace(queue, (Fraction(2 * found[i] + 1, sizes[i]), i))
    return found
