"""ListMLE's sums in float64, without a running maximum: the fastest form on CPUs.

CLIP's scaled cosines span at most 2 exp(logit_scale) = 200, and exp(-200) = 1e-87 is far from the smallest float64,
2e-308. So exp(x - max) can be summed as it is. Letters: C rows of a block, B items of a list.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.objectives.research.rank_weights import RankWeights

# Largest range of the utilities of a list for sums. A denominator is at least exp(-LARGEST_RANGE) = 3e-261, and the sum
# of its inverses at most B / 3e-261. A larger range needs sums of logarithms, which take several times as long.
LARGEST_RANGE = 600.0


def plackett_luce(
    ascending_CB: jax.Array, ends_tie_CB: jax.Array, rank_weights: RankWeights | None = None
) -> tuple[jax.Array, jax.Array]:
    """Loss [C] and gradient [C, B] of utilities in ascending reference order, in their dtype.

    `ends_tie_CB` is bool, True at the last item of each group of equal references. With w_l the weight of item l, which
    is 1 or given by `rank_weights`:

        D_k  = sum_{l <= k} exp(x_l - max)                  at the last item k of a group: the denominator of all of it
        loss = sum_k W_k log D_k - sum_l w_l (x_l - max)    over the last items k of groups, whose weights sum to W_k
        d loss / d x_l = exp(x_l - max) sum_{k >= l} W_k / D_k - w_l
    """
    # False if an item is NaN or infinite.
    fits = jnp.all(jnp.max(ascending_CB, axis=1) - jnp.min(ascending_CB, axis=1) <= LARGEST_RANGE)
    forms = (functools.partial(_loss_and_gradient, sums, rank_weights) for sums in (_with_sums, _with_logarithms))
    return lax.cond(fits, *forms, ascending_CB, ends_tie_CB)


def _loss_and_gradient(sums, rank_weights, ascending_CB, ends_tie_CB):
    # 64-bit types exist only inside this context; nothing 64 bits wide leaves it, unless it came in.
    with jax.enable_x64(True):
        # Ranks are the leading axis: the scans work on vectors of C rows.
        shifted_BC = ascending_CB.T.astype(jnp.float64)
        shifted_BC -= jnp.max(shifted_BC, axis=0, keepdims=True)
        at_ends_BC, of_items_BC = _weights(ends_tie_CB.T, rank_weights)
        log_denominators_BC, shares_BC = sums(shifted_BC, at_ends_BC)
        loss_C = jnp.sum(at_ends_BC * log_denominators_BC - of_items_BC * shifted_BC, axis=0)
        gradient_BC = shares_BC - of_items_BC
        return loss_C.astype(ascending_CB.dtype), gradient_BC.astype(ascending_CB.dtype).T


def _with_sums(shifted_BC, at_ends_BC):
    """log D_k, and exp(x_l - max) sum_{k >= l} W_k / D_k."""
    exponentials_BC = jnp.exp(shifted_BC)
    denominators_BC = _cumulative(jnp.add, exponentials_BC)
    shares_BC = exponentials_BC * _cumulative(jnp.add, at_ends_BC / denominators_BC, reverse=True)
    return jnp.log(denominators_BC), shares_BC


def _with_logarithms(shifted_BC, at_ends_BC):
    """The same for any range."""
    log_denominators_BC = _cumulative(jnp.logaddexp, shifted_BC)
    log_sums_BC = _cumulative(jnp.logaddexp, jnp.log(at_ends_BC) - log_denominators_BC, reverse=True)
    return log_denominators_BC, jnp.exp(shifted_BC + log_sums_BC)


def _cumulative(add, x_BC: jax.Array, reverse: bool = False) -> jax.Array:
    """Cumulative sums over the items. A scan over vectors of C lists is faster on CPUs than `jnp.cumsum`."""

    def step(total_C, x_C):
        total_C = add(total_C, x_C)
        return total_C, total_C

    nothing_C = jnp.full_like(x_BC[0], 0.0 if add is jnp.add else -jnp.inf)
    return lax.scan(step, nothing_C, x_BC, reverse=reverse)[1]


def _weights(ends_BC: jax.Array, rank_weights: RankWeights | None) -> tuple[jax.Array, jax.Array | float]:
    """float64: the weight of each group at its last item, 0 elsewhere, and the weight of each item."""
    is_end_BC = ends_BC.astype(jnp.float64)
    if rank_weights is None:
        return lax.cond(jnp.all(ends_BC), jnp.ones_like, lambda ends: ends * _counts(ends), is_end_BC), 1.0
    counts_BC = _counts(is_end_BC)
    means_BC = rank_weights.of_groups(counts_BC)
    return is_end_BC * counts_BC * means_BC, _value_at_end(means_BC, ends_BC)


def _counts(is_end_BC: jax.Array) -> jax.Array:
    """The number of items of each item's group up to this one, from 1. `is_end_BC` is 0 or 1."""

    def step(count_C, continues_C):
        count_C = count_C * continues_C + 1.0
        return count_C, count_C

    continues_BC = jnp.concatenate([jnp.zeros_like(is_end_BC[:1]), 1.0 - is_end_BC[:-1]])
    return lax.scan(step, jnp.zeros_like(is_end_BC[0]), continues_BC)[1]


def _value_at_end(x_BC: jax.Array, ends_BC: jax.Array) -> jax.Array:
    """For each item, the value of `x_BC` at the last item of its group."""

    def step(held_C, inputs):
        x_C, ends_C = inputs
        held_C = jnp.where(ends_C, x_C, held_C)
        return held_C, held_C

    return lax.scan(step, x_BC[-1], (x_BC, ends_BC), reverse=True)[1]
