"""Chooses the pairs to train on and the pairs to hold out for `val`.

The choice follows one fixed permutation of all training pairs: the first ``val_pairs`` are held out, the next
``train_limit`` are trained on. A larger limit keeps all pairs of a smaller limit.
"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.errors import UserError

ORDER_SEED = 20_250_101  # another value would change the data of every run


def select(
    sizes: Sequence[int], sound: Sequence[np.ndarray], num_held_out: int, limit: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Choose the held-out pairs and the training pairs.

    Args:
      sizes: number of pairs of each source, quarantined pairs included.
      sound: int [n] for each source, ascending: indices of the pairs that are not quarantined.
      num_held_out: number of pairs to hold out, including quarantined pairs.
      limit: number of pairs to train on; 0 for all others.

    Returns:
      Held-out indices and training indices: int [n], ascending, for each source.

    Raises:
      UserError: there are too few pairs.
    """
    starts = np.cumsum([0, *sizes])
    if not sizes or not (num_held_out or limit):
        return [], list(sound)
    is_sound = np.zeros(starts[-1], bool)
    is_sound[np.concatenate([own + start for own, start in zip(sound, starts, strict=False)])] = True
    order = np.random.default_rng(ORDER_SEED).permutation(starts[-1])
    held_out, rest = order[:num_held_out], order[num_held_out:]
    held_out, rest = held_out[is_sound[held_out]], rest[is_sound[rest]]
    if len(rest) < max(limit, 1):
        raise UserError(
            f"config.data.train_limit={limit} and val_pairs={num_held_out} exceed the {is_sound.sum()} usable pairs: "
            "lower them."
        )
    return _by_source(held_out, starts), _by_source(rest[: limit or None], starts)


def _by_source(chosen: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    chosen = np.sort(chosen)
    ends = np.searchsorted(chosen, starts)
    return [chosen[a:b] - start for a, b, start in zip(ends, ends[1:], starts, strict=False)]
