"""RankCLIP: CLIP plus ranking consistency (Zhang et al., ICCV 2025, arXiv 2404.09387).

For each pair i there are two lists of similarities, which should have the same order:

* cross-modal: row i of S (image i against all texts) and row i of S^T (text i against all images);
* in-modal: row i of V V^T (image i against all images) and row i of T T^T (text i against all texts).

Each direction is a row-wise ListMLE with utilities exp(logit_scale) * cosine. Its target is only the order of the other
list (`rank_terms`). This file has the options, and the weight of the terms over training.

Evidence: released code and a summary of the paper; the text of the paper was not available.
"""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.clip import CLIP
from rankclip_jax.objectives.objective import Objective, RunInfo
from rankclip_jax.objectives.options import positive
from rankclip_jax.objectives.rank_terms import TERMS
from rankclip_jax.objectives.weighting import read_weights
from rankclip_jax.schedules import Schedule, rank_ramp, rank_ramp_released

DEFAULTS = {
    "arithmetic": "exact",  # or "released": the public code's epsilon and argsort ties, for comparison
    "list_scope": "row",  # one list for each anchor; or "batch": the paper's single list of all pairs (research)
    "top_k": 0,  # only the first k choices of a list count; 0 for all (research)
    "position_weight": "none",  # or "log": the choice at rank k has weight 1 / ln(k + 1) (research)
    "include_diagonal": True,  # whether lists contain the anchor's own pair, as released
    "cross_weight": 1.0,  # weight of the cross-modal ranking term; 0 drops it
    "in_modal_weight": 1.0,  # weight of the in-modal ranking term; 0 drops it
    "ramp": "step",  # weight of both over time: "step", "epoch" (as released) or "none"
    "fixed_weight": 1.0,  # weight of both with ramp "none"
    "detach_scale": False,  # True: the ranking terms have no gradient into the learned scale
}
# What the public code computes, except for its fp16, random permutation and -1 padding.
RELEASED_DEFAULTS = DEFAULTS | {"arithmetic": "released", "ramp": "epoch"}
WEIGHT_OPTIONS = {"rank_cross": "cross_weight", "rank_in_modal": "in_modal_weight"}


def build(config, run: RunInfo) -> Objective:
    """L = CLIP + w(t) [cross_weight * cross + in_modal_weight * in_modal].

        ListMLE(P; Q) = 1/B sum_i sum_k [log sum_{l: Q_il <= Q_ik} exp(P_il) - P_ik]
        cross    = 1/(32 B) [ListMLE(S; S^T) + ListMLE(S^T; S)]
        in_modal = 1/(32 B) [ListMLE(s V V^T; T T^T) + ListMLE(s T T^T; V V^T)]

    with V, T [B, D], s = exp(logit_scale) and S = s V T^T. Lists include the diagonal, as in the released code:
    in-modal lists begin with the self-similarity. References Q carry no gradient, because only their order is used.
    Every matrix receives gradient as a utility P.

    Differences from the paper's formula (as a summary of the paper prints it), following the released code: one list
    per row instead of one list of all B^2 pairs; exponential utilities with the learned scale instead of raw cosines;
    both directions; the divisors; w(t) = clip(3 t, 0, 2).

    Differences from the released code with ``arithmetic="exact"``: no epsilon; equal references share one denominator.
    The released w follows the epoch (``ramp="epoch"``); the default here follows the fraction of training done. The
    released code has no `list_scope="batch"`, `top_k`, `position_weight`, `include_diagonal=False` or `detach_scale`.

    Args:
      config: the options of `DEFAULTS`. `list_scope="batch"`: see `research.batch_list`. `top_k` and `position_weight`:
        see `research.rank_weights`; with "exact", tied items have equal weights. `ramp="step"`: w = clip(3 step /
        total, 0, 2); "epoch": the released clip(3 (e - 1) / (E - 1), 0, 2), E >= 2; "none": w = `fixed_weight`. No
        option changes the divisor 32 B^2.
      run: total steps, and steps per epoch for ``ramp="epoch"``.

    Raises:
      UserError: an option out of range, a negative weight, or both ranking terms dropped.
    """
    ramp = _ramp(config, run)
    factors = read_weights(config, WEIGHT_OPTIONS)
    if not factors:
        raise UserError(
            f"objective {config.name!r} has cross_weight=0 and in_modal_weight=0: "
            "raise one of them, or use --config.objective.name=clip."
        )

    def weights(step: jax.Array) -> dict[str, jax.Array]:
        return {"clip": jnp.float32(1.0)} | {term: factor * ramp(step) for term, factor in factors.items()}

    return Objective(
        name=config.name,
        equation=_equation(config, factors),
        terms={"clip": CLIP} | {name: TERMS[name](config, run) for name in factors},
        weights=weights,
    )


def _epochs_ramp(run: RunInfo) -> Schedule:
    return rank_ramp_released(run.steps_per_epoch, math.ceil(run.total_steps / run.steps_per_epoch))


RAMPS = {"step": lambda run: rank_ramp(run.total_steps), "epoch": _epochs_ramp, "none": None}


def _ramp(config, run: RunInfo) -> Schedule:
    """The weight w of both ranking terms."""
    ramp, fixed_weight = lookup(RAMPS, config.ramp, "objective.ramp"), positive(config, "fixed_weight")
    if fixed_weight != 1.0 and ramp:
        raise UserError(
            f"objective.fixed_weight={fixed_weight:g} has no effect with objective.ramp={config.ramp!r}: "
            "set ramp=none, or change cross_weight and in_modal_weight."
        )
    return ramp(run) if ramp else lambda step: jnp.float32(fixed_weight)


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
