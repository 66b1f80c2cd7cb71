"""What each position of a list counts: all alike, falling with rank, or only the first k.

Letters: C rows of a block, B items of a list. Rank 1 is the item of the highest reference; arrays over
positions run the other way, from the lowest reference to the highest, like `sorting.row_order`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankclip_jax.errors import UserError, lookup

# Weight of rank k = 1, 2, ...
DECAYS = {
    "none": np.ones_like,
    # An earlier version of the RankCLIP paper, as third parties describe it (our reading); the released code has none.
    "log": lambda rank: 1.0 / np.log(rank + 1.0),
}


class Positions(NamedTuple):
    """Which positions of a list count, and how much.

    Attributes:
      top_k: only the first k choices count, each still against all items below it; 0 for all.
      weight: "none", or "log": rank k counts 1 / ln(k + 1).
    """

    top_k: int = 0
    weight: str = "none"


EVERY_POSITION = Positions()


def check_positions(top_k: int, weight: str) -> Positions:
    """The positions that the options `top_k` and `position_weight` choose.

    Raises:
      UserError: a `top_k` that is no whole number from 0, or an unknown weight.
    """
    lookup(DECAYS, weight, "objective.position_weight")
    if not (math.isfinite(top_k) and top_k >= 0 and top_k == int(top_k)):
        raise UserError(f"objective.top_k={top_k} must be a whole number: 1 or more positions, or 0 for all of them.")
    return Positions(int(top_k), weight)


def weights_in_order(items: int, positions: Positions) -> np.ndarray:
    """float64 [B]: what each position counts where every item has a position of its own."""
    rank_B = np.arange(items, 0, -1, dtype=np.float64)
    weight_B = DECAYS[positions.weight](rank_B)
    return np.where(rank_B <= (positions.top_k or items), weight_B, 0.0)


def weights_with_ties(ends_BC: jax.Array, positions: Positions, dtype: jnp.dtype) -> jax.Array:
    """What each item counts where items of equal reference must count alike.

    Every item of a tie group has the mean weight of the positions the group takes. The group that the
    boundary of the first k falls into counts whole. So nothing depends on the order of equal items.

    Args:
      ends_BC: bool [B, C], True at the last position of each group.
      positions: which count.
      dtype: of the weights.

    Returns:
      [B, C]; constants, without gradient.
    """
    items = len(ends_BC)
    rank_B1 = np.arange(items, 0, -1)[:, None]
    weight_B1 = weights_in_order(items, positions._replace(top_k=0))[:, None]
    given_BC = jnp.broadcast_to(jnp.asarray(weight_B1, dtype), ends_BC.shape)
    starts_BC = jnp.concatenate([jnp.ones_like(ends_BC[:1]), ends_BC[:-1]])
    # Sums within groups, not differences of sums over the list: far down those have lost the digits.
    _, sum_BC, count_BC = lax.associative_scan(_add_within, (starts_BC, given_BC, jnp.ones_like(given_BC)), axis=0)
    # A group ends at its best rank; that one decides whether it is among the first k.
    first_k_B1 = rank_B1 <= (positions.top_k or items)
    mean_at_end_BC = jnp.where(first_k_B1, sum_BC / count_BC, 0.0)
    return lax.associative_scan(_hold, (ends_BC, mean_at_end_BC), reverse=True, axis=0)[1]


def _add_within(left, right):
    starts_l, sum_l, count_l = left
    starts_r, sum_r, count_r = right
    return (
        starts_l | starts_r,
        sum_r + jnp.where(starts_r, 0.0, sum_l),
        count_r + jnp.where(starts_r, 0.0, count_l),
    )


def _hold(above, below):
    (ends_a, mean_a), (ends_b, mean_b) = above, below
    return ends_a | ends_b, jnp.where(ends_b, mean_b, mean_a)
