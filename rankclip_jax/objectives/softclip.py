"""SoftCLIP: soft targets from similarity within a modality (Gao et al., AAAI 2024, arXiv 2303.17561).

This is a reconstruction from the paper's abstract only. There is no released code, and the text of the
paper was not available. The abstract states that targets are softened by fine-grained similarity within a modality,
and that the negatives are disentangled from the positive, which dominates those targets. All else is our reading:
formulas, weights, temperature, the direction of the KL divergence, and that targets carry no gradient.

One difference is known to be large: the paper computes the similarity from image regions and the tags of an object
detector (our reading). Here it is the cosine of the model's own global embeddings.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.clip import CLIP, INPUTS, LOGIT_SCALE
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import positive
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

DEFAULTS = {
    "soft_weight": 1.0,  # weight of the term with complete targets; 0 drops it
    "negatives_weight": 1.0,  # weight of the term without the positive; 0 drops it
    "target_temperature": 0.07,  # the targets divide cosines by it
    "divergence": "symmetric",  # or "forward": KL(target || prediction) only
}
WEIGHT_OPTIONS = {"soft_targets": "soft_weight", "soft_negatives": "negatives_weight"}
# A logit with probability exactly 0 and a finite log-probability: 0 log 0 and its gradient are then 0.
EXCLUDED = -1e30


def build(config, run: RunInfo) -> Objective:
    """L = CLIP + soft_weight * soft_targets + negatives_weight * soft_negatives (our reading).

        P_I = softmax(S)                P_T = softmax(S^T)                  rows of S = s V T', V and T [B, D]
        Q_I = sg softmax(V V' / tau)    Q_T = sg softmax(T T' / tau)
        soft_targets   = 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)]
        soft_negatives = the same, with entry i of row i removed from P and Q, and rows normalised again

    KL is a mean over rows of 1/2 [KL(Q || P) + KL(P || Q)] (``divergence="symmetric"``) or of KL(Q || P)
    (``"forward"``). Each softmax is over a row of B. The targets Q carry no gradient (sg); P and the scale s do. For
    B = 1 both terms are 0.

    The formulas rest on the paper's abstract. Unknown are the weights, tau, whether the targets are mixed with CLIP's
    one-hot targets, and whether they are detached; the defaults are ours. A third-party implementation mixes 0.7
    one-hot with 0.3 soft targets and uses the forward KL. Up to a factor of the whole loss, that is
    ``divergence="forward"``, `soft_weight` 3/17 and `negatives_weight` 5/17 here.

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a negative weight, both soft terms dropped, a temperature that is not positive, or an unknown
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
    equation = f"{weighted_sum(weights)}, {config.divergence} KL, targets at temperature {config.target_temperature:g}"
    return Objective("softclip", equation, terms, fixed(weights))


def soft_term(name: str, config, run: RunInfo) -> Term:
    """The term "soft_targets" or "soft_negatives"; arguments and errors as in `build`."""
    del run
    divergence = lookup(DIVERGENCES, config.divergence, "objective.divergence")
    temperature = positive(config, "target_temperature")
    row_loss = functools.partial(_row_loss, divergence, temperature, name == "soft_negatives")
    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=row_loss)


TERMS = {name: functools.partial(soft_term, name) for name in WEIGHT_OPTIONS}


def _row_loss(divergence, temperature, negatives_only, block: RowBlock) -> jax.Array:
    """Sum of 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)] over the rows of the block."""

    def log_probabilities(logits_CB):
        if negatives_only:
            logits_CB = jnp.where(block.diagonal, EXCLUDED, logits_CB)
        return jax.nn.log_softmax(logits_CB, axis=1)

    total = 0.0
    for a, b in (INPUTS, INPUTS[::-1]):
        log_q_CB = log_probabilities(lax.stop_gradient(block.cosine(a, a)) / temperature)
        total += 0.5 * jnp.sum(divergence(log_q_CB, log_probabilities(block.scale * block.cosine(a, b))))
    return total


def symmetric_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """1/2 [KL(q || p) + KL(p || q)] = 1/2 sum (q - p) (log q - log p) of each row, [C]."""
    return 0.5 * jnp.sum((jnp.exp(log_q_CB) - jnp.exp(log_p_CB)) * (log_q_CB - log_p_CB), axis=1)


def forward_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """KL(q || p) of each row, [C]."""
    return jnp.sum(jnp.exp(log_q_CB) * (log_q_CB - log_p_CB), axis=1)


DIVERGENCES = {"symmetric": symmetric_divergence, "forward": forward_divergence}
