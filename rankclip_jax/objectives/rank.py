"""RankCLIP: CLIP plus ranking consistency (Zhang et al., ICCV 2025, arXiv 2404.09387).

For one anchor, its list of similarities to everyone in one modality should be ordered like its list
in the other:

* cross-modal: row i of S (image i against all texts) like row i of S^T (text i against all images);
* in-modal: row i of V V^T (image i against all images) like row i of T T^T.

Each direction is a row-wise ListMLE with utilities exp(logit_scale) * cosine, whose target is the
order, and only the order, of the other list (`rank_terms`). Here: the options, and the weight of the
terms over training.
"""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.clip import CLIP
from rankclip_jax.objectives.objective import Objective, RunInfo
from rankclip_jax.objectives.rank_terms import cross_term, in_modal_term
from rankclip_jax.schedules import rank_ramp, rank_ramp_released

DEFAULTS = {
    "arithmetic": "exact",  # or "released": the public code's epsilon and argsort ties, for comparison
    "list_scope": "row",  # one list for each anchor; or "batch": the paper's single list of all pairs
    "top_k": 0,  # only the first k choices of a list count; 0 for all
    "position_weight": "none",  # or "log": the choice at rank k counts 1 / ln(k + 1)
    "include_diagonal": True,  # whether lists hold the anchor's own pair, as released
    "cross_weight": 1.0,  # of the cross-modal ranking term; 0 drops it
    "in_modal_weight": 1.0,  # of the in-modal ranking term; 0 drops it
    "ramp": "step",  # weight of both over time: "step", "epoch" (as released) or "none"
    "fixed_weight": 1.0,  # weight of both with ramp "none"
    "detach_scale": False,  # True: the ranking terms do not move the learned scale
}
# What the public code computes where it runs, but for its fp16, random permutation and -1 padding.
RELEASED_DEFAULTS = DEFAULTS | {"arithmetic": "released", "ramp": "epoch"}
TERMS = {"rank_cross": cross_term, "rank_in_modal": in_modal_term}


def build(config, length: RunInfo) -> Objective:
    """L = CLIP + w(t) [cross_weight * cross + in_modal_weight * in_modal].

        ListMLE(P; Q) = 1/B sum_i sum_k [log sum_{l: Q_il <= Q_ik} exp(P_il) - P_ik]
        cross    = 1/(32 B) [ListMLE(S; S^T) + ListMLE(S^T; S)]
        in_modal = 1/(32 B) [ListMLE(s V V^T; T T^T) + ListMLE(s T T^T; V V^T)]

    The diagonal is included, as released: in-modal lists begin with the self-similarity. References
    carry no gradient, since only their order is used; every matrix has gradient as a utility.

    Differences from the paper's printed formula, following the released code: one list per row
    instead of one list of all B^2 pairs, exponential utilities with the learned scale instead of raw
    cosines, both directions, and w(t) = clip(3 t, 0, 2). Differences from the released code with
    ``arithmetic="exact"``: no epsilon, equal references share one denominator. The released code has
    none of `list_scope="batch"`, `top_k`, `position_weight`, `include_diagonal=False`, `detach_scale`; its w
    follows the epoch (`ramp="epoch"`), ours the fraction of training done.

    Args:
      config: `DEFAULTS` explains each option. `arithmetic`: "exact" | "released". `list_scope`: "row" |
        "batch" (for research, see `rank_batch_list`). `top_k` and `position_weight` ("none" | "log"): see
        `rank_weights`; of tied items, with "exact", all count alike. `include_diagonal=False` leaves
        each anchor's own pair out of its lists, in either arithmetic. `ramp`: "step": w = clip(3 step /
        total, 0, 2); "epoch": the released clip(3 (e - 1) / (E - 1), 0, 2), E >= 2; "none": w =
        `fixed_weight`. `detach_scale=True`: the terms see the scale as a constant. No option changes the
        divisor 32 B^2.
      length: how long the run is.

    Raises:
      UserError: an option out of range, a negative weight, or no ranking term at all.
    """
    ramp = _ramp(config, length)
    factors = _rank_factors(config)

    def weights(step: jax.Array) -> dict[str, jax.Array]:
        return {"clip": jnp.float32(1.0)} | {term: factor * ramp(step) for term, factor in factors.items()}

    return Objective(
        name=config.name,
        equation=_equation(config, factors),
        terms={"clip": CLIP} | {name: TERMS[name](config) for name in factors},
        weights=weights,
    )


def _rank_factors(config) -> dict[str, float]:
    named = {"rank_cross": config.cross_weight, "rank_in_modal": config.in_modal_weight}
    for term, factor in named.items():
        if not (factor >= 0 and math.isfinite(factor)):
            raise UserError(f"objective weight of {term} is {factor}: it must be a number that is not negative.")
    factors = {term: factor for term, factor in named.items() if factor > 0}
    if not factors:
        raise UserError(
            f"objective {config.name!r} has cross_weight=0 and in_modal_weight=0: "
            "raise one of them, or use --config.objective.name=clip."
        )
    return factors


def _step_ramp(length: RunInfo):
    return lambda step: rank_ramp(step, length.total_steps)


def _epoch_ramp(length: RunInfo):
    epochs = math.ceil(length.total_steps / length.steps_per_epoch)
    rank_ramp_released(0, length.steps_per_epoch, epochs)  # refuses a single epoch now, not at the first step
    return lambda step: rank_ramp_released(step, length.steps_per_epoch, epochs)


def _ramp(config, length: RunInfo):
    """step -> w, the weight of both terms."""
    fixed = config.fixed_weight
    ramp = lookup(RAMPS, config.ramp, "objective.ramp")
    if not (fixed > 0 and math.isfinite(fixed)):
        raise UserError(
            f"objective.fixed_weight={fixed} must be above 0 (cross_weight=0 or in_modal_weight=0 drops a term)."
        )
    if fixed != 1.0 and ramp:
        raise UserError(
            f"objective.fixed_weight={fixed:g} has no meaning with objective.ramp={config.ramp!r}: "
            "set ramp=none, or change cross_weight and in_modal_weight."
        )
    return ramp(length) if ramp else lambda step: jnp.float32(fixed)


RAMPS = {"step": _step_ramp, "epoch": _epoch_ramp, "none": None}


def _equation(config, factors) -> str:
    symbols = {"rank_cross": "cross", "rank_in_modal": "in_modal"}
    terms = [symbols[t] if f == 1 else f"{f:g} {symbols[t]}" for t, f in factors.items()]
    fixed = "" if config.fixed_weight == 1 else f"{config.fixed_weight:g} "
    ramp = {"step": "clip(3 t, 0, 2) ", "epoch": "clip(3 (e-1)/(E-1), 0, 2) ", "none": fixed}[config.ramp]
    notes = {
        f"{config.arithmetic} ListMLE": True,
        "one list of all pairs": config.list_scope == "batch",
        f"top {config.top_k}": config.top_k,
        "rank k weighs 1/ln(k+1)": config.position_weight == "log",
        "without own pairs": not config.include_diagonal,
        "scale detached": config.detach_scale,
    }
    return f"L = CLIP + {ramp}({' + '.join(terms)}), {', '.join(note for note, true in notes.items() if true)}"
