"""What each position of a list counts: all alike, falling with rank, or only the first k.

Letters: C rows of a block, B items of a list. Rank 1 is the item of the highest reference; arrays over
positions run the other way, from the lowest reference to the highest, like `sorting.row_order`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.errors import UserError, lookup

# Weight of rank k = 1, 2, ...
DECAYS = {
    "none": np.ones_like,
    # An earlier version of the RankCLIP paper, as third parties describe it (our reading); the released code has none.
    "log": lambda rank: 1.0 / np.log(rank + 1.0),
}


class RankWeights(NamedTuple):
    """Which positions of a list count, and how much.

    Attributes:
      top_k: only the first k choices count, each still against all items below it; 0 for all.
      weight: "none", or "log": rank k counts 1 / ln(k + 1).
    """

    top_k: int = 0
    weight: str = "none"


EVERY_POSITION = RankWeights()


def check_positions(top_k: int, weight: str) -> RankWeights:
    """The positions that the options `top_k` and `position_weight` choose.

    Raises:
      UserError: a `top_k` that is no whole number from 0, or an unknown weight.
    """
    lookup(DECAYS, weight, "objective.position_weight")
    if not (math.isfinite(top_k) and top_k >= 0 and top_k == int(top_k)):
        raise UserError(f"objective.top_k={top_k} must be a whole number: 1 or more positions, or 0 for all of them.")
    return RankWeights(int(top_k), weight)


def weights_in_order(items: int, positions: RankWeights) -> np.ndarray:
    """float64 [B]: what each position counts where every item has a position of its own."""
    rank_B = np.arange(items, 0, -1, dtype=np.float64)
    weight_B = DECAYS[positions.weight](rank_B)
    return np.where(rank_B <= (positions.top_k or items), weight_B, 0.0)


def mean_weights(tied_BC: jax.Array, positions: RankWeights) -> jax.Array:
    """What each item of a tie group counts, at the group's last position; elsewhere without meaning.

    Items of equal reference must count alike, or the loss would depend on their order: each has the mean
    weight of the positions that the group takes. The group across the boundary of the first k counts whole.

    Args:
      tied_BC: float [B, C], how many items of the group there are up to this position, from 1.
      positions: which count.

    Returns:
      [B, C] in the dtype of `tied_BC`; constants, without gradient.
    """
    items, dtype = len(tied_BC), tied_BC.dtype
    rank_B = np.arange(items, 0, -1)
    # A group ends at its best rank, which decides whether it is among the first k.
    counts_B1 = rank_B[:, None] <= (positions.top_k or items)
    if positions.weight == "none":
        return jnp.broadcast_to(jnp.asarray(counts_B1, dtype), tied_BC.shape)
    # Sums over groups as differences of sums from the lowest position on, which in one float32 would have
    # lost the digits that differ; so each is a float and the rest.
    sums = np.concatenate([[0.0], np.cumsum(DECAYS[positions.weight](rank_B.astype(np.float64)))])
    high = sums.astype(dtype)
    low = (sums - high).astype(dtype)
    end_B1 = np.arange(1, items + 1)[:, None]
    start_BC = end_B1 - tied_BC.astype(jnp.int32)
    group_BC = (high[end_B1] - jnp.asarray(high)[start_BC]) + (low[end_B1] - jnp.asarray(low)[start_BC])
    return jnp.where(counts_B1, group_BC / tied_BC, 0.0)
