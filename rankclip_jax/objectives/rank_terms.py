"""The two ranking terms of RankCLIP, with the options of `rank.DEFAULTS`.

        ListMLE(P; Q) = sum_i sum_k w_k [log sum_{l: Q_il <= Q_ik} exp(P_il) - P_ik]     of lists [B, B]
        cross    = 1/(32 B^2) [ListMLE(S; S^T) + ListMLE(S^T; S)]                        S = s V T^T
        in_modal = 1/(32 B^2) [ListMLE(s V V^T; T T^T) + ListMLE(s T T^T; V V^T)]

where i runs over the rows, k over the ranks of list i, and w_k = 1 except with `position_weight` or `top_k`. No
option changes the divisor: a list with fewer items or smaller weights has a smaller loss.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import lookup
from rankclip_jax.objectives.clip import INPUTS, LOGIT_SCALE
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from rankclip_jax.objectives.objective import RowBlock, RunInfo, Term
from rankclip_jax.objectives.research.batch_list import batch_lists, only_once
from rankclip_jax.objectives.research.rank_weights import read_rank_weights

ARITHMETICS = {"exact": listmle_exact, "released": listmle_released}
# 1/2 for the mean of the two directions, times 1/16, the weight in an earlier version of the paper: our reading of the
# constant in the released code.
TERM_SCALE = 1.0 / 32.0

# The two lists of an anchor, each as the arrays (rows, columns) of its cosines.
COSINES = {
    "rank_cross": (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")),
    "rank_in_modal": (("image_embeds", "image_embeds"), ("text_embeds", "text_embeds")),
}


def rank_term(name: str, config, run: RunInfo) -> Term:
    """The term `rank_cross` or `rank_in_modal`: both directions between the two lists of each anchor.

    `config` has the options of `rank.DEFAULTS`; `run` is unused.

    Raises:
      UserError: an option out of range.
    """
    del run
    arithmetic = lookup(ARITHMETICS, config.arithmetic, "objective.arithmetic")
    listmle = functools.partial(arithmetic, rank_weights=read_rank_weights(config))
    include_diagonal, detach_scale = config.include_diagonal, config.detach_scale

    def both_directions(block: RowBlock, first_CB, second_CB) -> jax.Array:
        """Sum of ListMLE(first; second) + ListMLE(second; first) over the rows, / 32 B. One call sorts both."""
        if first_CB.size == 0:  # a batch of one pair, without the diagonal
            return jnp.zeros((), first_CB.dtype)
        scale = lax.stop_gradient(block.scale) if detach_scale else block.scale
        utility = scale * jnp.concatenate([first_CB, second_CB])
        return jnp.sum(listmle(utility, jnp.concatenate([second_CB, first_CB]))) * (TERM_SCALE / block.batch)

    lists = lookup(LIST_SCOPES, config.list_scope, "objective.list_scope")
    return Term(
        inputs=INPUTS,
        scalars={"logit_scale": LOGIT_SCALE},
        row_loss=lambda block: lists(block, COSINES[name], include_diagonal, functools.partial(both_directions, block)),
    )


TERMS = {name: functools.partial(rank_term, name) for name in COSINES}


def _row_lists(block: RowBlock, cosines, include_diagonal: bool, both_directions: Callable) -> jax.Array:
    """One list for each anchor, as in the released code."""
    first_CB, second_CB = (block.cosine(*pair) for pair in cosines)
    if not include_diagonal:
        first_CB, second_CB = (without_own(x, block.index_C) for x in (first_CB, second_CB))
    return both_directions(first_CB, second_CB)


def _one_list(block: RowBlock, cosines, include_diagonal: bool, both_directions: Callable) -> jax.Array:
    """One list of all B^2 pairs, as in the paper's formula."""
    return only_once(block, lambda: both_directions(*batch_lists(block, cosines, include_diagonal)))


LIST_SCOPES = {"row": _row_lists, "batch": _one_list}


def without_own(rows_CB: jax.Array, own_C: jax.Array) -> jax.Array:
    """Rows [C, B - 1] without the column `own_C` of each row. Selections need no gather, which would be slower."""
    column = jnp.arange(rows_CB.shape[1] - 1)[None, :]
    return jnp.where(column >= own_C[:, None], rows_CB[:, 1:], rows_CB[:, :-1])
