"""RankCLIP: CLIP plus ranking consistency (Zhang et al., ICCV 2025, arXiv 2404.09387).

For one anchor, its list of similarities to everyone in one modality should be ordered like its list
in the other:

* cross-modal: row i of S (image i against all texts) like row i of S^T (text i against all images);
* in-modal: row i of V V^T (image i against all images) like row i of T T^T.

Each direction is a row-wise ListMLE with utilities exp(log_scale) * cosine, whose target is the
order, and only the order, of the other list.
"""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.clip import CLIP, LOG_SCALE, NEEDS
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from rankclip_jax.objectives.objective import Objective, RunLength, Term, View
from rankclip_jax.schedules import rank_ramp, rank_ramp_released

DEFAULTS = {
    "arithmetic": "exact",  # or "released": the public code's epsilon, for comparison
    "cross_weight": 1.0,  # of the cross-modal ranking term; 0 drops it
    "in_modal_weight": 1.0,  # of the in-modal ranking term; 0 drops it
    "ramp": "step",  # weight of both over time: "step", "epoch" (as released) or "none"
}
ARITHMETICS = {"exact": listmle_exact, "released": listmle_released}
# 1/2 for the mean of the two directions times 1/16, the weight of the paper's earlier version (our
# reading of the constant in the released code).
TERM_SCALE = 1.0 / 32.0


def build(config, length: RunLength) -> Objective:
    """L = CLIP + w(t) [cross_weight * cross + in_modal_weight * in_modal].

        ListMLE(P; Q) = 1/B sum_i sum_k [log sum_{l: Q_il <= Q_ik} exp(P_il) - P_ik]
        cross    = 1/(32 B) [ListMLE(S; S^T) + ListMLE(S^T; S)]
        in_modal = 1/(32 B) [ListMLE(s V V^T; T T^T) + ListMLE(s T T^T; V V^T)]

    The diagonal is included, as released: in-modal lists begin with the self-similarity. References
    carry no gradient, since only their order is used; every matrix has gradient as a utility.

    Differences from the paper's printed formula, following the released code: one list per row
    instead of one list of all B^2 pairs, exponential utilities with the learned scale instead of raw
    cosines, both directions, and w(t) = clip(3 t, 0, 2). Difference from the released code with
    ``arithmetic="exact"``: no epsilon, equal references share one denominator, and w follows the
    fraction of training done instead of the epoch.

    Args:
      config: `arithmetic` ("exact" | "released"), `cross_weight` and `in_modal_weight` (0 drops the
        term), `ramp` ("step": w = clip(3 step / total, 0, 2); "epoch": the released
        clip(3 (e - 1) / (E - 1), 0, 2), E >= 2; "none": w = 1).
      length: how long the run is.

    Raises:
      UserError: an unknown arithmetic or ramp, a negative weight, or no ranking term at all.
    """
    listmle = lookup(ARITHMETICS, config.arithmetic, "objective.arithmetic")
    ramp = lookup(RAMPS, config.ramp, "objective.ramp")(length)
    factors = _rank_factors(config)

    makers = {"rank_cross": cross_term, "rank_in_modal": in_modal_term}

    def weights(step: jax.Array) -> dict[str, jax.Array]:
        return {"clip": jnp.float32(1.0)} | {term: factor * ramp(step) for term, factor in factors.items()}

    return Objective(
        name="rankclip",
        equation=_equation(config, factors),
        terms={"clip": CLIP} | {name: makers[name](listmle) for name in factors},
        weights=weights,
    )


def cross_term(listmle) -> Term:
    """Row i of S against row i of S^T, both ways."""

    def rows(view: View) -> jax.Array:
        images_CB, texts_CB = view.cosine("image_embeds", "text_embeds"), view.cosine("text_embeds", "image_embeds")
        return _both_ways(view, images_CB, texts_CB, listmle)

    return Term(needs=NEEDS, scalars={"log_scale": LOG_SCALE}, rows=rows)


def in_modal_term(listmle) -> Term:
    """Row i of V V^T against row i of T T^T, both ways."""

    def rows(view: View) -> jax.Array:
        images_CB, texts_CB = view.cosine("image_embeds", "image_embeds"), view.cosine("text_embeds", "text_embeds")
        return _both_ways(view, images_CB, texts_CB, listmle)

    return Term(needs=NEEDS, scalars={"log_scale": LOG_SCALE}, rows=rows)


def _both_ways(view: View, first_CB, second_CB, listmle):
    """Sum over the rows of ListMLE(first; second) + ListMLE(second; first), / 32 B; ranks walked once."""
    utility = view.scale * jnp.concatenate([first_CB, second_CB])
    return jnp.sum(listmle(utility, jnp.concatenate([second_CB, first_CB]))) * (TERM_SCALE / view.batch)


def _rank_factors(config) -> dict[str, float]:
    named = {"rank_cross": config.cross_weight, "rank_in_modal": config.in_modal_weight}
    for term, factor in named.items():
        if not (factor >= 0 and math.isfinite(factor)):
            raise UserError(f"objective weight of {term} is {factor}: it must be a number that is not negative.")
    factors = {term: factor for term, factor in named.items() if factor > 0}
    if not factors:
        raise UserError(
            "objective 'rankclip' has cross_weight=0 and in_modal_weight=0: "
            "raise one of them, or use --config.objective.name=clip."
        )
    return factors


def _step_ramp(length: RunLength):
    return lambda step: rank_ramp(step, length.total_steps)


def _epoch_ramp(length: RunLength):
    epochs = math.ceil(length.total_steps / length.steps_per_epoch)
    rank_ramp_released(0, length.steps_per_epoch, epochs)  # refuses a single epoch now, not at the first step
    return lambda step: rank_ramp_released(step, length.steps_per_epoch, epochs)


def _no_ramp(length: RunLength):
    del length
    return lambda step: jnp.float32(1.0)


RAMPS = {"step": _step_ramp, "epoch": _epoch_ramp, "none": _no_ramp}


def _equation(config, factors) -> str:
    symbols = {"rank_cross": "cross", "rank_in_modal": "in_modal"}
    terms = [symbols[t] if f == 1 else f"{f:g} {symbols[t]}" for t, f in factors.items()]
    ramp = {"step": "clip(3 t, 0, 2) ", "epoch": "clip(3 (e-1)/(E-1), 0, 2) ", "none": ""}[config.ramp]
    return f"L = CLIP + {ramp}({' + '.join(terms)}), {config.arithmetic} ListMLE"
