"""SoftCLIP: soft targets from similarity within a modality (Gao et al., AAAI 2024, arXiv 2303.17561).

This is a reconstruction from the paper's abstract only. There is no released code, and the text of the
paper was not available. The abstract states that targets are softened by fine-grained similarity within a modality,
and that the negatives are disentangled from the positive, which dominates those targets. All else is our reading:
formulas, weights, temperature, the direction of the KL divergence, and that targets carry no gradient. The paper's
section on the method would settle them.

One difference is known to be large: the paper computes the similarity from image regions and the tags of an object
detector (our reading). Here it is the cosine of the model's own global embeddings.

`MIXED_DEFAULTS` are the options of a third-party implementation.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.clip import CLIP, INPUTS, LOGIT_SCALE
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import at_least_zero
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

DEFAULTS = {
    "soft_weight": 1.0,  # weight of the term with complete targets; 0 drops it
    "negatives_weight": 1.0,  # weight of the term without the positive; 0 drops it
    "target_temperature": 0.07,  # the targets divide cosines by it; 0: by the learned temperature of the predictions
    "divergence": "symmetric",  # or "forward": KL(target || prediction) only
    "one_hot_share": 0.0,  # fraction of CLIP's one-hot targets in the complete targets
    "detach_targets": True,  # False: the targets carry gradient too
}
# Defaults of a third-party implementation. As written there, it adds the column's index, not a one-hot row, to the
# logits of the targets: a mistake, which is not repeated here.
MIXED_DEFAULTS = DEFAULTS | {
    "soft_weight": 0.1,
    "negatives_weight": 0.1,
    "target_temperature": 0.0,
    "divergence": "forward",
    "one_hot_share": 0.7,
    "detach_targets": False,
}
WEIGHT_OPTIONS = {"soft_targets": "soft_weight", "soft_negatives": "negatives_weight"}
# A logit with probability exactly 0 and a finite log-probability: 0 log 0 and its gradient are then 0.
EXCLUDED = -1e30
LARGEST_SHARE = 0.999  # with 1 no soft target would be left


def build(config, run: RunInfo) -> Objective:
    """L = CLIP + soft_weight * soft_targets + negatives_weight * soft_negatives (our reading).

        P_I = softmax(S)                P_T = softmax(S^T)                  rows of S = s V T', V and T [B, D]
        Q_I = sg softmax(V V' / tau)    Q_T = sg softmax(T T' / tau)
        soft_targets   = 1/2 [KL(h e + (1 - h) Q_I, P_I) + KL(h e + (1 - h) Q_T, P_T)]
        soft_negatives = 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)], with entry i of row i removed from P and Q, and rows
                         normalised again

    KL is a mean over rows of 1/2 [KL(Q || P) + KL(P || Q)] (``divergence="symmetric"``) or of KL(Q || P)
    (``"forward"``). Each softmax is over a row of B. e is CLIP's one-hot target, h is `one_hot_share`. The targets Q
    carry no gradient (sg) unless ``detach_targets=False``; P and the scale s do. ``target_temperature=0`` is tau = 1/s.
    For B = 1 both terms are 0.

    The formulas rest on the paper's abstract. Unknown are the weights, tau, whether the targets are mixed with CLIP's
    one-hot targets, and whether they are detached; the defaults are ours. For detached targets and the forward KL,
    h e + (1 - h) Q has the gradient of h CLIP + (1 - h) KL(Q, P): h changes only the weights.

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a negative weight or temperature, both soft terms dropped, a share that is not below 1, or an unknown
        divergence.
    """
    soft = read_weights(config, WEIGHT_OPTIONS)
    if not soft:
        raise UserError(
            "objective 'softclip' has soft_weight=0 and negatives_weight=0: "
            "raise one of them, or use the objective clip."
        )
    weights = {"clip": 1.0} | soft
    terms = {"clip": CLIP} | {name: TERMS[name](config, run) for name in soft}
    return Objective(config.name, _equation(config, weights), terms, fixed(weights))


def _equation(config, weights: dict[str, float]) -> str:
    tau = f"{config.target_temperature:g}" if config.target_temperature else "1/s"
    mixed = f", {config.one_hot_share:g} one-hot" if config.one_hot_share else ""
    trained = "" if config.detach_targets else ", targets with gradient"
    return f"{weighted_sum(weights)}, {config.divergence} KL, targets at temperature {tau}{mixed}{trained}"


class Targets(NamedTuple):
    """Options of a soft term, checked."""

    divergence: Callable[[jax.Array, jax.Array], jax.Array]
    temperature: float
    one_hot_share: float
    detached: bool
    negatives_only: bool


def soft_term(name: str, config, run: RunInfo) -> Term:
    """The term "soft_targets" or "soft_negatives"; arguments and errors as in `build`."""
    del run
    how = Targets(
        divergence=lookup(DIVERGENCES, config.divergence, "objective.divergence"),
        temperature=at_least_zero(config, "target_temperature"),
        one_hot_share=at_least_zero(config, "one_hot_share", maximum=LARGEST_SHARE) if name == "soft_targets" else 0.0,
        detached=bool(config.detach_targets),
        negatives_only=name == "soft_negatives",
    )
    row_loss = functools.partial(_row_loss, how)
    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=row_loss)


TERMS = {name: functools.partial(soft_term, name) for name in WEIGHT_OPTIONS}


def _row_loss(how: Targets, block: RowBlock) -> jax.Array:
    """Sum of 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)] over the rows of the block."""

    def log_probabilities(logits_CB):
        if how.negatives_only:
            logits_CB = jnp.where(block.diagonal, EXCLUDED, logits_CB)
        return jax.nn.log_softmax(logits_CB, axis=1)

    total = 0.0
    for a, b in (INPUTS, INPUTS[::-1]):
        own_CB = block.cosine(a, a)
        log_q_CB = log_probabilities(own_CB / how.temperature if how.temperature else block.scale * own_CB)
        if how.one_hot_share:
            log_q_CB = _mixed(log_q_CB, block.diagonal, how.one_hot_share)
        if how.detached:
            log_q_CB = lax.stop_gradient(log_q_CB)
        total += 0.5 * jnp.sum(how.divergence(log_q_CB, log_probabilities(block.scale * block.cosine(a, b))))
    return total


def _mixed(log_q_CB: jax.Array, diagonal_CB: jax.Array, share: float) -> jax.Array:
    """log(share e + (1 - share) q)."""
    soft_CB = math.log1p(-share) + log_q_CB
    return jnp.where(diagonal_CB, jnp.logaddexp(soft_CB, math.log(share)), soft_CB)


def symmetric_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """1/2 [KL(q || p) + KL(p || q)] = 1/2 sum (q - p) (log q - log p) of each row, [C]."""
    return 0.5 * jnp.sum((jnp.exp(log_q_CB) - jnp.exp(log_p_CB)) * (log_q_CB - log_p_CB), axis=1)


def forward_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """KL(q || p) of each row, [C]."""
    return jnp.sum(jnp.exp(log_q_CB) * (log_q_CB - log_p_CB), axis=1)


DIVERGENCES = {"symmetric": symmetric_divergence, "forward": forward_divergence}
