"""ListMLE (Plackett-Luce negative log-likelihood) of rows of utilities, given a reference order.

Letters: C rows of a block, B items of a list.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.objectives import listmle_float64
from rankclip_jax.objectives.research.rank_weights import RankWeights
from rankclip_jax.objectives.sorting import row_order

RELEASED_EPS = 1e-10
# The sums of `listmle_float64` work on vectors with one entry per list: too short if there are more items per list.
FEW_LISTS = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def listmle_exact(utility_CB: jax.Array, reference_CB: jax.Array, rank_weights: RankWeights | None = None) -> jax.Array:
    """ListMLE of each row, in arithmetic that neither overflows nor underflows.

    Sort the items of a row by descending reference r. The Plackett-Luce likelihood of that order under the utilities u
    is a product over ranks: at each rank, one item is chosen from itself and all lower items. The loss is its negative
    logarithm:

        loss = sum_k [log D_k - u_k],    D_k = sum_{l: r_l <= r_k} exp(u_l)

    Ties: items with equal references share one denominator D, so the order of the items has no effect on the loss.

    Gradient: d loss / d u_l = sum_{k: r_k >= r_l} exp(u_l) / D_k - 1, computed together with the loss (reverse mode
    only). The references carry no gradient, because only their order is used.

    Numerics: sums are kept as a running maximum m and a sum of exp(. - m): every exponent is at most 0. On CPUs, sums
    are in float64 instead where the utilities of a list differ by at most 600.
    ``log(cumsum(exp(x - max)))`` would underflow to -inf at scale 100, and an added epsilon erases the gradient (see
    `listmle_released`).

    Args:
      utility_CB: float32 or float64 [C, B], predicted utilities of any size. CLIP's scaled cosines reach +-100.
      reference_CB: [C, B] in the same dtype; its order is the target.
      rank_weights: weight of each rank in the sum over k (static, hashable); None for 1. Tied items have equal weights.

    Returns:
      [C] in the dtype of `utility_CB`, summed over the B items. NaN for a row with a NaN in either argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from rankclip_jax.objectives import listmle_exact
      >>> utility = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
      >>> reference = jnp.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
      >>> [f"{loss:.3f}" for loss in listmle_exact(utility, reference)]
      ['0.721', '3.721']

    References:
      Xia et al., Listwise approach to learning to rank: theory and algorithm, ICML 2008.
    """
    return _loss_and_gradient(utility_CB, reference_CB, rank_weights)[0]


def _backward(rank_weights, gradient_CB, cotangent_C):
    del rank_weights
    return cotangent_C[:, None] * gradient_CB, jnp.zeros_like(gradient_CB)


def listmle_released(
    utility_CB: jax.Array, reference_CB: jax.Array, rank_weights: RankWeights | None = None
) -> jax.Array:
    """ListMLE of each row, in the arithmetic of RankCLIP's released PyTorch code. For comparison only.

    It computes log(sum + 1e-10) of exponentials that are shifted by the row maximum, which carries gradient. Items with
    equal references keep their argsort order. If scale * (max - utility) exceeds 23, the epsilon dominates and the
    gradient no longer depends on the ranking.

    Differences from the released code: no fp16 products, no random permutation of the columns before the sort, and no
    padding indicator -1. The released code has no `rank_weights`; here they follow the argsort order.

    Args and returns as in `listmle_exact`.
    """
    order_CB, _ = row_order(lax.stop_gradient(reference_CB))
    shifted_CB = utility_CB - jnp.max(utility_CB, axis=1, keepdims=True)
    ascending_CB = jnp.take_along_axis(shifted_CB, order_CB, axis=1)
    sums_CB = jnp.cumsum(jnp.exp(ascending_CB), axis=1)
    factors_CB = jnp.log(sums_CB + RELEASED_EPS) - ascending_CB
    if rank_weights is not None:
        factors_CB *= jnp.asarray(rank_weights.in_order(factors_CB.shape[1]), factors_CB.dtype)[None, :]
    loss_C = jnp.sum(factors_CB, axis=1)
    return jnp.where(_any_nan(reference_CB, order_CB), jnp.nan, loss_C)


def _loss_and_gradient(utility_CB, reference_CB, rank_weights):
    order_CB, ends_tie_CB = row_order(reference_CB)
    ascending_CB = jnp.take_along_axis(utility_CB, order_CB, axis=1, mode="promise_in_bounds")
    loss_C, gradient_CB = _plackett_luce(ascending_CB, ends_tie_CB, rank_weights)
    rows_C1 = jnp.arange(order_CB.shape[0])[:, None]
    target_CB = jnp.zeros_like(gradient_CB).at[rows_C1, order_CB]
    unsorted_CB = target_CB.set(gradient_CB, unique_indices=True, mode="promise_in_bounds")
    return jnp.where(_any_nan(reference_CB, order_CB), jnp.nan, loss_C), unsorted_CB


listmle_exact.defvjp(_loss_and_gradient, _backward)


def _any_nan(reference_CB, order_CB):
    """Whether a row contains a NaN, bool [C]. Sorting moves NaNs to the ends of the row."""
    ends_C2 = jnp.take_along_axis(reference_CB, order_CB[:, jnp.array([0, -1])], axis=1)
    return jnp.any(jnp.isnan(ends_C2), axis=1)


def _plackett_luce(ascending_CB, ends_tie_CB, rank_weights):
    """Loss [C] and its gradient [C, B] for utilities in ascending reference order, in the form that is fastest here."""
    on_cpu, general = (
        functools.partial(form, rank_weights=rank_weights)
        for form in (listmle_float64.plackett_luce, _with_running_maximum)
    )
    lists, items = ascending_CB.shape
    if items > FEW_LISTS * lists:
        return general(ascending_CB, ends_tie_CB)
    return lax.platform_dependent(ascending_CB, ends_tie_CB, cpu=on_cpu, default=general)


def _with_running_maximum(ascending_CB, ends_tie_CB, rank_weights):
    """`_plackett_luce` for utilities of any range, in their own dtype: accelerators have no fast float64.

    d loss / d x_l = exp(x_l) sum_{k ranked with or above l} w_k / D_k - w_l, with D_k the denominator of k.
    """
    x_BC, ends_BC = ascending_CB.T, ends_tie_CB.T
    peak_BC, sum_BC, tied_BC = _prefix_sums(x_BC, ends_BC)
    if rank_weights is None:
        held_peak_BC, held_sum_BC, share_BC = _suffix_shares(ends_BC, peak_BC, sum_BC, tied_BC)
        weight_BC = 1.0
    else:
        mean_BC = rank_weights.of_groups(tied_BC)
        held_peak_BC, held_sum_BC, share_BC, weight_BC = _suffix_shares(
            ends_BC, peak_BC, sum_BC, tied_BC * mean_BC, mean_BC
        )
    factors_BC = (held_peak_BC - x_BC) + jnp.log(held_sum_BC)
    loss_C = jnp.sum(weight_BC * factors_BC, axis=0)
    gradient_BC = jnp.exp(x_BC - peak_BC) * share_BC - weight_BC
    return loss_C, gradient_BC.T


# The two recurrences, as associative scans of logarithmic depth.
#
# Prefix: sum_k exp(peak_k) is the sum of exp(x) over the items up to k. tied_k is the number of items of k's tie group
# up to k.
# Suffix: the held values are those of the last item of k's tie group; they give the denominator of the group.
# share_k exp(-peak_k) is the sum of w_l / D_l over the items l ranked with or above k. weight_k is read only at the
# last item of a group and is the sum of the group's weights.


def _prefix_sums(x_BC, ends_BC):
    def combine(left, right):
        (peak_l, sum_l), (peak_r, sum_r) = left, right
        peak = jnp.maximum(peak_l, peak_r)
        return peak, sum_l * jnp.exp(peak_l - peak) + sum_r * jnp.exp(peak_r - peak)

    peak_BC, sum_BC = lax.associative_scan(combine, (x_BC, jnp.ones_like(x_BC)), axis=0)
    position_BC = lax.broadcasted_iota(x_BC.dtype, x_BC.shape, 0)
    group_ends_BC = jnp.where(ends_BC, position_BC, -1.0)
    before_BC = jnp.concatenate([jnp.full_like(x_BC[:1], -1.0), group_ends_BC[:-1]])
    return peak_BC, sum_BC, position_BC - lax.cummax(before_BC, axis=0)


def _suffix_shares(ends_BC, peak_BC, sum_BC, weight_BC, *more):
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
