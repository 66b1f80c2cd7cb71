"""Weights of the ranks of a list: decreasing with the rank, or zero after the first k. For research.

According to third parties, an earlier version of the RankCLIP paper weights rank k by 1 / ln(k + 1) (our reading). The
released code has no such weights.

Letters: C rows of a block, B items of a list. Rank 1 is the item with the highest reference. Arrays over the items have
the opposite order, from the lowest reference to the highest, like `sorting.row_order`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.errors import UserError, lookup

# Weight of rank k = 1, 2, ...
DECAYS = {"none": np.ones_like, "log": lambda rank: 1.0 / np.log(rank + 1.0)}


class RankWeights(NamedTuple):
    """Weights of the ranks of a list.

    Attributes:
      top_k: ranks after the first k have weight 0; 0 for no limit. Denominators still include all lower items.
      decay: "none", or "log": rank k has weight 1 / ln(k + 1).
    """

    top_k: int = 0
    decay: str = "none"

    def in_order(self, items: int) -> np.ndarray:
        """float64 [B]: the weight of each item, for B = `items` items without ties."""
        rank_B = np.arange(items, 0, -1, dtype=np.float64)
        return np.where(rank_B <= (self.top_k or items), DECAYS[self.decay](rank_B), 0.0)

    def of_groups(self, tied_BC: jax.Array) -> jax.Array:
        """The weight of each item of a tie group, at the last item of the group; other entries are undefined.

        Items with equal references must have equal weights, or the loss would depend on their order: each has the mean
        weight of the ranks of its group. A group that crosses the limit k counts as a whole.

        `tied_BC` is float [B, C]: the number of items of the group up to this one, from 1. The result has the same
        shape and dtype and no gradient.
        """
        items, dtype = len(tied_BC), tied_BC.dtype
        rank_B = np.arange(items, 0, -1)
        # The last item of a group has its best rank, which decides whether the group is among the first k.
        counts_B1 = rank_B[:, None] <= (self.top_k or items)
        if self.decay == "none":
            return jnp.broadcast_to(jnp.asarray(counts_B1, dtype), tied_BC.shape)
        # The sum over a group is a difference of two cumulative sums. A single float32 has too few digits for that
        # difference: each sum is kept as a float and a remainder.
        sums = np.concatenate([[0.0], np.cumsum(DECAYS[self.decay](rank_B.astype(np.float64)))])
        high = sums.astype(dtype)
        low = (sums - high).astype(dtype)
        end_B1 = np.arange(1, items + 1)[:, None]
        start_BC = end_B1 - tied_BC.astype(jnp.int32)
        group_BC = (high[end_B1] - jnp.asarray(high)[start_BC]) + (low[end_B1] - jnp.asarray(low)[start_BC])
        return jnp.where(counts_B1, group_BC / tied_BC, 0.0)


def read_rank_weights(config) -> RankWeights | None:
    """The weights that the options `top_k` and `position_weight` choose; None if all ranks have weight 1.

    Raises:
      UserError: `top_k` is not a whole number from 0 up, or `position_weight` is unknown.
    """
    top_k, decay = config.top_k, config.position_weight
    lookup(DECAYS, decay, "objective.position_weight")
    if not (math.isfinite(top_k) and top_k >= 0 and top_k == int(top_k)):
        raise UserError(f"objective.top_k={top_k} must be a whole number: the first k ranks count, or 0 for all ranks.")
    weights = RankWeights(int(top_k), decay)
    return None if weights == RankWeights() else weights
