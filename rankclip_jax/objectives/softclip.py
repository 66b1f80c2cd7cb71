"""SoftCLIP: soft targets from similarity within a modality (Gao et al., AAAI 2024, arXiv 2303.17561).

There is no released code, and we have read the abstract only. What it states: targets softened by
fine-grained similarity within a modality, and negatives disentangled from the positive, which dominates
those targets. All else here is our reading: formulas, weights, temperature, and that targets carry no
gradient.

One difference is known to be large. The paper takes the similarity from regions of an image and the tags of
an object detector (our reading); there is no detector here, and the similarity is that of the model's own
global embeddings.
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
    "soft_weight": 1.0,  # of the term with whole targets; 0 drops it
    "negatives_weight": 1.0,  # of the term without the positive; 0 drops it
    "target_temperature": 0.07,  # cosines are divided by it in the targets
    "divergence": "symmetric",  # or "forward": KL(target || prediction) alone
}
WEIGHT_OPTIONS = {"soft_targets": "soft_weight", "soft_negatives": "negatives_weight"}
# As a logit: a share of exactly 0 with a finite logarithm, so that 0 log 0 is 0 and so is its gradient.
LEFT_OUT = -1e30


def build(config, length: RunInfo) -> Objective:
    """L = CLIP + soft_weight * soft_targets + negatives_weight * soft_negatives (our reading).

        P_I = softmax(S)                P_T = softmax(S^T)                  rows of S = s V T'
        Q_I = sg softmax(V V' / tau)    Q_T = sg softmax(T T' / tau)
        soft_targets   = 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)]
        soft_negatives = the same with entry i of row i left out of P and Q, and rows made to sum to 1

    KL is a mean over rows of 1/2 [KL(Q || P) + KL(P || Q)] (``divergence="symmetric"``) or of KL(Q || P)
    (``"forward"``). Softmaxes run over rows of B. The targets Q carry no gradient; P does, and the scale by
    it. With B = 1 both terms are 0.

    Not known from the paper: the weights, tau, whether the targets are mixed with the one-hot ones of
    CLIP instead of standing beside it, and whether they are detached. The defaults are ours.

    Args:
      config: `soft_weight`, `negatives_weight` (0 drops the term), `target_temperature`,
        `divergence` ("symmetric" | "forward").
      length: not used.

    Raises:
      UserError: a negative weight, no soft term at all, a temperature that is not positive, or an unknown
        divergence.
    """
    del length
    soft = read_weights(config, WEIGHT_OPTIONS)
    if not soft:
        raise UserError(
            "objective 'softclip' has soft_weight=0 and negatives_weight=0: "
            "raise one of them, or use the objective clip."
        )
    weights = {"clip": 1.0} | soft
    terms = {"clip": CLIP} | {name: soft_term(name, config) for name in soft}
    equation = f"{weighted_sum(weights)}, {config.divergence} KL, targets at temperature {config.target_temperature:g}"
    return Objective("softclip", equation, terms, fixed(weights))


def soft_term(name: str, config) -> Term:
    """Both directions of the divergence between targets and predictions.

    Args:
      name: "soft_targets" | "soft_negatives".
      config: `target_temperature`, `divergence`.

    Raises:
      UserError: an option out of range.
    """
    divergence = lookup(DIVERGENCES, config.divergence, "objective.divergence")
    temperature = positive(config, "target_temperature")
    rows = functools.partial(_rows, divergence, temperature, name == "soft_negatives")
    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=rows)


def _rows(divergence, temperature, negatives_only, block: RowBlock) -> jax.Array:
    """Sum over the rows of the block of 1/2 [KL(Q_I, P_I) + KL(Q_T, P_T)]."""

    def log_shares(logits_CB):
        if negatives_only:
            logits_CB = jnp.where(block.own, LEFT_OUT, logits_CB)
        return jax.nn.log_softmax(logits_CB, axis=1)

    total = 0.0
    for a, b in (INPUTS, INPUTS[::-1]):
        log_q_CB = log_shares(lax.stop_gradient(block.cosine(a, a)) / temperature)
        total += 0.5 * jnp.sum(divergence(log_q_CB, log_shares(block.scale * block.cosine(a, b))))
    return total


def symmetric_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """1/2 [KL(q || p) + KL(p || q)] = 1/2 sum (q - p) (log q - log p) of each row, [C]."""
    return 0.5 * jnp.sum((jnp.exp(log_q_CB) - jnp.exp(log_p_CB)) * (log_q_CB - log_p_CB), axis=1)


def forward_divergence(log_q_CB: jax.Array, log_p_CB: jax.Array) -> jax.Array:
    """KL(q || p) of each row, [C]."""
    return jnp.sum(jnp.exp(log_q_CB) * (log_q_CB - log_p_CB), axis=1)


DIVERGENCES = {"symmetric": symmetric_divergence, "forward": forward_divergence}
