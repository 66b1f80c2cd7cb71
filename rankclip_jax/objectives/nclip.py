"""nCLIP and xCLIP: images and texts agree on a distribution, without negatives (Zhou et al. 2023, arXiv 2210.09304).

No code was released, and the paper's text was not at hand. Known from its abstract: only matching pairs
are compared, as distributions over many prototypes; the loss has a part for sharpness and one for
smoothness; xCLIP is CLIP and nCLIP together. The formulas and the weights below are our reading.
"""

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import CLIP
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

INPUTS = ("image_logits", "text_logits")
DEFAULTS = {
    "sharpness_weight": 0.5,  # of the entropy of each distribution
    "smoothness_weight": 1.0,  # of the entropy of the batch's mean distribution, which is to rise
}
XCLIP_DEFAULTS = {
    "clip_weight": 1.0,  # of CLIP
    "nclip_weight": 1.0,  # of all of nCLIP
    **DEFAULTS,
}


def build_nclip(config, length: RunInfo) -> Objective:
    """L = nclip_cross_entropy + sharpness_weight * nclip_sharpness + smoothness_weight * nclip_smoothness.

    With p_i = softmax(image_logits_i), q_i = softmax(text_logits_i) over K prototypes, and
    H(p, q) = -sum_k p_k log q_k, H(p) = H(p, p):

        nclip_cross_entropy =  1/2 mean_i [H(p_i, q_i) + H(q_i, p_i)]
        nclip_sharpness     =  1/2 mean_i [H(p_i) + H(q_i)]
        nclip_smoothness    = -1/2 [H(mean_i p_i) + H(mean_i q_i)]

    The last is lowest, -log K, when the batch uses all prototypes alike: it keeps everything from
    collapsing into one. Its means are over the global batch. Gradient goes through both arguments of H(p, q),
    nothing is stopped, and there is no temperature. Logits are float [B, K], are read by their own rows only,
    and never gathered: devices exchange two vectors of K.

    All of this is our reading, the weights 0.5 and 1 are ours, and so are the heads (`models/heads.py`). CLIP's
    projection is not trained by it: evaluation compares the distributions (`two_towers.distribution_embeds`).

    Args:
      config: `sharpness_weight`, `smoothness_weight` (0 drops the term).
      length: not used.

    Raises:
      UserError: a weight is negative or not finite.
    """
    del length
    return _objective("nclip", _nclip_weights(config, 1.0))


def build_xclip(config, length: RunInfo) -> Objective:
    """L = clip_weight * CLIP + nclip_weight * nCLIP, on one trunk: CLIP's projection beside the heads.

    nCLIP as in `build_nclip`. Both weights are 1, ours: those of the paper were not found. Evaluation
    compares CLIP's embeddings.

    Args:
      config: `clip_weight`, `nclip_weight`, and nCLIP's options.
      length: not used.

    Raises:
      UserError: a weight is negative or not finite, or one of the two parts has weight 0.
    """
    del length
    parts = read_weights(config, {"clip": "clip_weight", "nclip": "nclip_weight"})
    if len(parts) < 2:
        raise UserError("objective 'xclip' is both clip and nclip: give both weights, or use the one that is left.")
    return _objective("xclip", {"clip": parts["clip"]} | _nclip_weights(config, parts["nclip"]))


def _nclip_weights(config, of_all: float) -> dict[str, float]:
    options = {"nclip_sharpness": "sharpness_weight", "nclip_smoothness": "smoothness_weight"}
    weights = {"nclip_cross_entropy": 1.0} | read_weights(config, options)
    return {name: of_all * weight for name, weight in weights.items()}


def _objective(name: str, weights: dict[str, float]) -> Objective:
    return Objective(name, weighted_sum(weights), {term: TERMS[term] for term in weights}, fixed(weights))


def _cross_entropy_rows(block: RowBlock) -> jax.Array:
    """Sum over the rows of the block of 1/2 [H(p, q) + H(q, p)]."""
    log_p, log_q = _log_distributions(block.rows)
    return -0.5 * jnp.sum(jnp.exp(log_p) * log_q + jnp.exp(log_q) * log_p)


def _sharpness_rows(block: RowBlock) -> jax.Array:
    """Sum over the rows of the block of 1/2 [H(p) + H(q)]."""
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
    """-sum_k p_k log p_k; a prototype that no row uses counts 0, with a finite gradient."""
    return -jnp.sum(mean_K * jnp.log(jnp.maximum(mean_K, jnp.finfo(mean_K.dtype).tiny)))


def _log_distributions(rows) -> list[jax.Array]:
    return [jax.nn.log_softmax(rows[name], axis=-1) for name in INPUTS]


TERMS = {
    "clip": CLIP,
    "nclip_cross_entropy": Term(inputs=INPUTS, local=INPUTS, row_loss=_cross_entropy_rows),
    "nclip_sharpness": Term(inputs=INPUTS, local=INPUTS, row_loss=_sharpness_rows),
    "nclip_smoothness": Term(inputs=INPUTS, local=INPUTS, sums=_summed_distributions, from_sums=_smoothness),
}
