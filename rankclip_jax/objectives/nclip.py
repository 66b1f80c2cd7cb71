"""nCLIP and xCLIP: images and texts agree on a distribution, without negatives (Zhou et al. 2023, arXiv 2210.09304).

This is a reconstruction from the paper's abstract only. The authors' repository holds no code, and the text of the
paper was not available. The abstract states that only matching pairs are compared, as distributions over many
prototypes; that the loss has a part for sharpness and one for smoothness; and that xCLIP is CLIP plus nCLIP. The
formulas, the weights and the heads are our reading. The paper's sections on the loss and the training details would
settle them.
"""

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import CLIP
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term, without_options
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

INPUTS = ("image_logits", "text_logits")
DEFAULTS = {
    "sharpness_weight": 0.5,  # weight of the mean entropy of the distributions, which should be low; 0 drops it
    "smoothness_weight": 1.0,  # weight of the entropy of the mean distribution, which should be high; 0 drops it
}
XCLIP_DEFAULTS = {
    "clip_weight": 1.0,  # weight of CLIP
    "nclip_weight": 1.0,  # weight of all terms of nCLIP
    **DEFAULTS,
}


def build_nclip(config, run: RunInfo) -> Objective:
    """L = nclip_cross_entropy + sharpness_weight * nclip_sharpness + smoothness_weight * nclip_smoothness.

    With p_i = softmax(image_logits_i), q_i = softmax(text_logits_i) over K prototypes, and
    H(p, q) = -sum_k p_k log q_k, H(p) = H(p, p):

        nclip_cross_entropy =  1/2 mean_i [H(p_i, q_i) + H(q_i, p_i)]
        nclip_sharpness     =  1/2 mean_i [H(p_i) + H(q_i)]
        nclip_smoothness    = -1/2 [H(mean_i p_i) + H(mean_i q_i)]

    The last term has its minimum, -log K, when the batch uses all prototypes equally: it prevents collapse into one
    prototype. Its means are over the global batch. Gradient flows through both arguments of H(p, q); nothing is
    detached, and there is no temperature. Logits are float [B, K]. They are read by block and never gathered: devices
    exchange two vectors of K values.

    The formulas rest on the paper's abstract. The weights 0.5 and 1 are ours, and so are the heads (`models/heads.py`).
    This loss does not train CLIP's projection: evaluation compares the distributions
    (`two_towers.distribution_embeds`).

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a weight is negative or not finite.
    """
    del run
    return _objective("nclip", _nclip_weights(config, 1.0))


def build_xclip(config, run: RunInfo) -> Objective:
    """L = clip_weight * CLIP + nclip_weight * nCLIP, with CLIP's projection and nCLIP's heads on one trunk.

    `build_nclip` explains the terms of nCLIP. The default weights 1 are our choice: those of the paper were not found.
    A public reading list gives 0.3 for CLIP and 0.7 for nCLIP (not confirmed). Evaluation compares CLIP's embeddings.

    `config` has the options of `XCLIP_DEFAULTS`; `run` is unused.

    Raises:
      UserError: a weight is negative or not finite, or one of the two parts has weight 0.
    """
    del run
    parts = read_weights(config, {"clip": "clip_weight", "nclip": "nclip_weight"})
    if len(parts) < 2:
        raise UserError("objective 'xclip' is both clip and nclip: set both weights above 0, or use clip or nclip.")
    return _objective("xclip", {"clip": parts["clip"]} | _nclip_weights(config, parts["nclip"]))


def _nclip_weights(config, factor: float) -> dict[str, float]:
    options = {"nclip_sharpness": "sharpness_weight", "nclip_smoothness": "smoothness_weight"}
    weights = {"nclip_cross_entropy": 1.0} | read_weights(config, options)
    return {name: factor * weight for name, weight in weights.items()}


def _objective(name: str, weights: dict[str, float]) -> Objective:
    terms = {"clip": CLIP} | _TERMS
    return Objective(name, weighted_sum(weights), {term: terms[term] for term in weights}, fixed(weights))


def _cross_entropy_row_loss(block: RowBlock) -> jax.Array:
    """Sum of 1/2 [H(p, q) + H(q, p)] over the rows of the block."""
    log_p, log_q = _log_distributions(block.rows)
    return -0.5 * jnp.sum(jnp.exp(log_p) * log_q + jnp.exp(log_q) * log_p)


def _sharpness_row_loss(block: RowBlock) -> jax.Array:
    """Sum of 1/2 [H(p) + H(q)] over the rows of the block."""
    return -0.5 * sum(jnp.sum(jnp.exp(log) * log) for log in _log_distributions(block.rows))


def _summed_distributions(rows, scalars, batch):
    """Sums [K] of p and of q over any number of rows."""
    del scalars, batch
    log_p, log_q = _log_distributions(rows)
    return {"p": jnp.sum(jnp.exp(log_p), axis=0), "q": jnp.sum(jnp.exp(log_q), axis=0)}


def _smoothness(sums, scalars, batch) -> jax.Array:
    del scalars
    return -0.5 * (_entropy(sums["p"] / batch) + _entropy(sums["q"] / batch))


def _entropy(mean_K: jax.Array) -> jax.Array:
    """-sum_k p_k log p_k. An unused prototype contributes 0 and has a finite gradient."""
    return -jnp.sum(mean_K * jnp.log(jnp.maximum(mean_K, jnp.finfo(mean_K.dtype).tiny)))


def _log_distributions(rows) -> list[jax.Array]:
    return [jax.nn.log_softmax(rows[name], axis=-1) for name in INPUTS]


_TERMS = {
    "nclip_cross_entropy": Term(inputs=INPUTS, local=INPUTS, row_loss=_cross_entropy_row_loss),
    "nclip_sharpness": Term(inputs=INPUTS, local=INPUTS, row_loss=_sharpness_row_loss),
    "nclip_smoothness": Term(inputs=INPUTS, local=INPUTS, sums=_summed_distributions, from_sums=_smoothness),
}
TERMS = {name: without_options(term) for name, term in _TERMS.items()}
