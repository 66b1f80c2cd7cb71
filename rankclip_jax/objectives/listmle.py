"""ListMLE (Plackett-Luce negative log-likelihood) of rows of utilities, given a reference order.

Letters: C rows of a block, B items of a list.

With the items of a row sorted by descending reference value, the likelihood of that order is a
product of choices, each item against all items not ranked above it:

    loss = sum_k w_k [ log sum_{l : reference_l <= reference_k} exp(utility_l) - utility_k ]

Items whose reference values are equal share one denominator (the paper's ``>=``) and one weight, so
the exact loss does not depend on the order of the batch. The weights w are 1 but for `RankWeights`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.objectives.rank_weights import EVERY_POSITION, RankWeights, mean_weights, weights_in_order
from rankclip_jax.objectives.sorting import row_order

RELEASED_EPS = 1e-10
# A scan over the ranks works on vectors of all lists. Few long lists leave it nothing to work on.
FEW_LISTS = 1024  # items to one list


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def listmle_exact(utility_CB: jax.Array, reference_CB: jax.Array, positions: RankWeights = EVERY_POSITION) -> jax.Array:
    """ListMLE of each row, in arithmetic that neither overflows nor underflows.

    Args:
      utility_CB: float [C, B], scaled similarities of any size (CLIP's reach +-100).
      reference_CB: float [C, B], the similarities whose order is the target. Carries no gradient.
      positions: which positions count, and how much (static). Tied items count alike.

    Returns:
      [C], summed over the B positions, in the dtype of `utility_CB`; NaN where a row of either is.

    Sums are kept as a running maximum m and a sum s of exp(. - m), so every exponent is <= 0 and
    nothing of the size of the utilities is ever rounded into them. ``log(cumsum(exp(x - max)))``
    underflows to -inf at scale 100; adding an epsilon there erases the gradient (see
    `listmle_released`).
    """
    return _loss_and_gradient(utility_CB, reference_CB, positions)[0]


def _forward(utility_CB, reference_CB, positions):
    return _loss_and_gradient(utility_CB, reference_CB, positions)


def _backward(positions, gradient_CB, cotangent_C):
    del positions
    return cotangent_C[:, None] * gradient_CB, jnp.zeros_like(gradient_CB)


listmle_exact.defvjp(_forward, _backward)


def listmle_released(
    utility_CB: jax.Array, reference_CB: jax.Array, positions: RankWeights = EVERY_POSITION
) -> jax.Array:
    """ListMLE of each row with the arithmetic of the released PyTorch code.

    log(sum + 1e-10) of exponentials shifted by a row maximum that carries gradient; equal reference
    values keep their argsort order. Once scale * (max - utility) passes 23 the epsilon dominates and
    the gradient no longer depends on the ranking: use it to compare with published runs only. Not
    reproduced: its fp16 products, its random permutation of columns before the sort, and its -1
    padding indicator.

    Args and returns as `listmle_exact`. The released code has no `positions`; here they follow the
    argsort order too.
    """
    order_CB, _ = row_order(lax.stop_gradient(reference_CB))
    shifted_CB = utility_CB - jnp.max(utility_CB, axis=1, keepdims=True)
    ascending_CB = jnp.take_along_axis(shifted_CB, order_CB, axis=1)
    sums_CB = jnp.cumsum(jnp.exp(ascending_CB), axis=1)
    factors_CB = jnp.log(sums_CB + RELEASED_EPS) - ascending_CB
    if positions != EVERY_POSITION:
        factors_CB *= jnp.asarray(weights_in_order(factors_CB.shape[1], positions), factors_CB.dtype)
    loss_C = jnp.sum(factors_CB, axis=1)
    return jnp.where(_any_nan(reference_CB, order_CB), jnp.nan, loss_C)


def _loss_and_gradient(utility_CB, reference_CB, positions):
    order_CB, ends_tie_CB = row_order(reference_CB)
    ascending_CB = jnp.take_along_axis(utility_CB, order_CB, axis=1, mode="promise_in_bounds")
    loss_C, gradient_CB = _plackett_luce(ascending_CB, ends_tie_CB, positions)
    rows_C1 = jnp.arange(order_CB.shape[0])[:, None]
    unsorted_CB = (
        jnp.zeros_like(gradient_CB)
        .at[rows_C1, order_CB]
        .set(gradient_CB, unique_indices=True, mode="promise_in_bounds")
    )
    return jnp.where(_any_nan(reference_CB, order_CB), jnp.nan, loss_C), unsorted_CB


def _any_nan(reference_CB, order_CB):
    """Whether a row [C] holds a NaN. Sorting would hide it: it gets a place at one end like any number."""
    ends_C2 = jnp.take_along_axis(reference_CB, order_CB[:, jnp.array([0, -1])], axis=1)
    return jnp.any(jnp.isnan(ends_C2), axis=1)


def _plackett_luce(ascending_CB, ends_tie_CB, positions):
    """Loss [C] and its gradient [C, B] for utilities in ascending reference order.

    d loss / d x_l = exp(x_l) sum over the items k ranked with or above l of w_k / denominator_k, less w_l.
    """
    # Ranks lead: the CPU path walks them one by one over vectors of C rows.
    x_BC, ends_BC = ascending_CB.T, ends_tie_CB.T
    prefix_sums, suffix_shares = _recurrences(*x_BC.shape)
    peak_BC, sum_BC, tied_BC = prefix_sums(x_BC, ends_BC)
    if positions == EVERY_POSITION:
        held_peak_BC, held_sum_BC, share_BC = suffix_shares(ends_BC, peak_BC, sum_BC, tied_BC)
        weight_BC = 1.0
    else:
        mean_BC = mean_weights(tied_BC, positions)
        held_peak_BC, held_sum_BC, share_BC, weight_BC = suffix_shares(
            ends_BC, peak_BC, sum_BC, tied_BC * mean_BC, mean_BC
        )
    factors_BC = (held_peak_BC - x_BC) + jnp.log(held_sum_BC)
    loss_C = jnp.sum(weight_BC * factors_BC, axis=0)
    gradient_BC = jnp.exp(x_BC - peak_BC) * share_BC - weight_BC
    return loss_C, gradient_BC.T


def _recurrences(items, lists):
    """Prefix sums and suffix shares, in the form that suits the backend and the shape."""
    if items > FEW_LISTS * lists:
        return _prefix_sums_associative, _suffix_shares_associative
    return (
        functools.partial(lax.platform_dependent, cpu=_prefix_sums_scan, default=_prefix_sums_associative),
        functools.partial(lax.platform_dependent, cpu=_suffix_shares_scan, default=_suffix_shares_associative),
    )


# The two recurrences, each written twice: as a sequential scan (fastest on CPU) and as an
# associative scan (logarithmic depth for accelerators).
#
# Prefix: sum over items up to k of exp(x) = sum_k exp(peak_k); tied_k counts the items of k's tie
# group up to k.
# Suffix: the held values are those of the last item of k's tie group, i.e. the group's denominator;
# share_k exp(-peak_k) = sum over the items l ranked with or above k of w_l / denominator_l, where
# weight_k, read at the last item of a group only, is that of the group's items together.


def _prefix_sums_scan(x_BC, ends_BC):
    def step(carry, inputs):
        peak, total, tied, ended = carry
        x, ends = inputs
        new_peak = jnp.maximum(peak, x)
        total = total * jnp.exp(peak - new_peak) + jnp.exp(x - new_peak)
        tied = jnp.where(ended, 1.0, tied + 1.0)
        return (new_peak, total, tied, ends), (new_peak, total, tied)

    first = x_BC[0]
    start = (first, jnp.zeros_like(first), jnp.zeros_like(first), jnp.ones_like(ends_BC[0]))
    return lax.scan(step, start, (x_BC, ends_BC))[1]


def _prefix_sums_associative(x_BC, ends_BC):
    def combine(left, right):
        (peak_l, sum_l), (peak_r, sum_r) = left, right
        peak = jnp.maximum(peak_l, peak_r)
        return peak, sum_l * jnp.exp(peak_l - peak) + sum_r * jnp.exp(peak_r - peak)

    peak_BC, sum_BC = lax.associative_scan(combine, (x_BC, jnp.ones_like(x_BC)), axis=0)
    position_BC = lax.broadcasted_iota(x_BC.dtype, x_BC.shape, 0)
    group_ends_BC = jnp.where(ends_BC, position_BC, -1.0)
    before_BC = jnp.concatenate([jnp.full_like(x_BC[:1], -1.0), group_ends_BC[:-1]])
    return peak_BC, sum_BC, position_BC - lax.cummax(before_BC, axis=0)


def _suffix_shares_scan(ends_BC, peak_BC, sum_BC, weight_BC, *more):
    def step(carry, inputs):
        share, above_peak, held = carry
        ends, weight, at_end = inputs
        peak, total, *_ = at_end
        held = tuple(jnp.where(ends, new, old) for new, old in zip(at_end, held, strict=True))
        share = share * jnp.exp(peak - above_peak) + jnp.where(ends, weight / total, 0.0)
        return (share, peak, held), (held, share)

    to_hold = (peak_BC, sum_BC, *more)
    last = peak_BC[-1]
    start = (jnp.zeros_like(last), last, tuple(x[-1] for x in to_hold))
    (held_peak_BC, held_sum_BC, *held), share_BC = lax.scan(step, start, (ends_BC, weight_BC, to_hold), reverse=True)[1]
    return held_peak_BC, held_sum_BC, share_BC, *held


def _suffix_shares_associative(ends_BC, peak_BC, sum_BC, weight_BC, *more):
    def combine(above, below):
        decay_a, share_a, ends_a, *held_a = above
        decay_b, share_b, ends_b, *held_b = below
        held = [jnp.where(ends_b, b, a) for a, b in zip(held_a, held_b, strict=True)]
        return decay_a * decay_b, share_a * decay_b + share_b, ends_a | ends_b, *held

    above_BC = jnp.concatenate([peak_BC[1:], peak_BC[-1:]])
    shares_BC = jnp.where(ends_BC, weight_BC / sum_BC, 0.0)
    elements = (jnp.exp(peak_BC - above_BC), shares_BC, ends_BC, peak_BC, sum_BC, *more)
    _, share_BC, _, held_peak_BC, held_sum_BC, *held = lax.associative_scan(combine, elements, reverse=True, axis=0)
    return held_peak_BC, held_sum_BC, share_BC, *held
