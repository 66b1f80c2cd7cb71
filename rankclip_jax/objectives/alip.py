"""ALIP: pairs weighted by their agreement with a second caption (Yang et al., ICCV 2023, arXiv 2308.08428).

Each image has a raw text and a second caption, which in the paper comes from a captioning model (OFA). One text tower
encodes both. Evidence: released code and the text of the paper.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import LOGIT_SCALE, symmetric_rows
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import at_least_zero
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

DEFAULTS = {
    "text_weight": 1.0,  # weight of the branch of images and raw texts; 0 drops it
    "caption_weight": 1.0,  # weight of the branch of images and second captions; 0 drops it
    "momentum": 0.99,  # m, 0 to 1: fraction of a running mean that each update keeps
    "sample_exponent": 2.0,  # the paper's gamma_s: how steeply the sample weight falls; 0 sets that factor to 1
    "pair_exponent": 2.0,  # the paper's gamma_p: how steeply the pair weight follows the cosine; 0: factor 1
}
WEIGHT_OPTIONS = {"alip_text": "text_weight", "alip_caption": "caption_weight"}
OTHER = {"alip_text": "text_embeds", "alip_caption": "caption_embeds"}


def build(config, run: RunInfo) -> Objective:
    """L = text_weight * alip_text + caption_weight * alip_caption.

    With v_i, t_i, c_i the embeddings [B, D] of image, text and second caption, a_i = t_i.c_i, and, in the
    branch of y (the texts t or the captions c), d_i = v_i.y_i:

        branch(y) = 1/B sum_i w_i 1/2 [CE_i(s V Y') + CE_i(s Y V')]
        w_i = exp(gamma_s (a_i - H_a)) exp(gamma_p (d_i - H_d)) if a_i < H_a, else 1
        H <- m H + (1 - m) mean_i(.), starting at H = 1, updated before this batch is weighted

    The first factor of w_i is the sample weight (equation 2 of the paper), the second the pair weight (equation 4),
    which may exceed 1. If a_i >= H_a both are 1. Weights and running means carry no gradient. Both branches share the
    learned scale s. Texts and captions are not contrasted with each other. Because H starts at 1, the loss starts at
    about e^-4 of its later size.

    Difference from the paper's text: it sums over the batch and over both directions, a factor of 2 B (equation 6).
    Here the normalisation is that of the released code. The paper tunes both exponents and finds 2 best (section 4.3);
    the code has 2 and m = 0.99 as constants.

    Differences from the released code: checkpoints hold the running means, which the code loses at a restart. Each
    branch keeps its own copy of H_a, equal to the bit: each branch can be used alone.

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: an option out of range, or both branches dropped.
    """
    weights = read_weights(config, WEIGHT_OPTIONS)
    if not weights:
        raise UserError("objective 'alip' has text_weight=0 and caption_weight=0: raise one of them.")
    terms = {name: TERMS[name](config, run) for name in weights}
    return Objective("alip", weighted_sum(weights), terms, fixed(weights))


def alip_term(name: str, config, run: RunInfo) -> Term:
    """The branch `alip_text` or `alip_caption`, with the options of `DEFAULTS`."""
    del run
    other = OTHER[name]
    momentum = at_least_zero(config, "momentum", maximum=1.0)
    sample_exponent = at_least_zero(config, "sample_exponent")
    pair_exponent = at_least_zero(config, "pair_exponent")

    def sums(rows_KD, scalars, batch):
        del scalars, batch
        consistency = jnp.sum(rows_KD["text_embeds"] * rows_KD["caption_embeds"])
        return {"consistency": consistency, "match": jnp.sum(rows_KD["image_embeds"] * rows_KD[other])}

    def next_state(state, sums, batch):
        return {key: momentum * state[key] + (1 - momentum) * (sums[key] / batch) for key in state}

    def row_loss(block: RowBlock) -> jax.Array:
        consistency_C, match_C = block.matching("text_embeds", "caption_embeds"), block.matching("image_embeds", other)
        sample_C = jnp.exp(sample_exponent * (consistency_C - block.state["consistency"]))
        pair_C = jnp.exp(pair_exponent * (match_C - block.state["match"]))
        weight_C = lax.stop_gradient(jnp.where(sample_C < 1, sample_C * pair_C, 1.0))
        return jnp.sum(weight_C * symmetric_rows(block, "image_embeds", other))

    return Term(
        inputs=("image_embeds", "text_embeds", "caption_embeds"),
        local=tuple(embeds for embeds in OTHER.values() if embeds != other),
        scalars={"logit_scale": LOGIT_SCALE},
        sums=sums,
        state={"consistency": 1.0, "match": 1.0},
        next_state=next_state,
        row_loss=row_loss,
    )


TERMS = {name: functools.partial(alip_term, name) for name in OTHER}
