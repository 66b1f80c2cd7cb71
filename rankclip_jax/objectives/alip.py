"""ALIP: pairs weighed by how well they fit a second caption (Yang et al. 2023, arXiv 2308.08428).

Each image comes with its raw text and with a second caption, made by a captioning model in the paper; one
text tower reads both. After the released code.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import LOGIT_SCALE, symmetric_rows
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

DEFAULTS = {
    "text_weight": 1.0,  # of the branch of images and their texts; 0 drops it
    "caption_weight": 1.0,  # of the branch of images and their second captions; 0 drops it
    "momentum": 0.99,  # share of a running mean that each batch keeps
    "sample_exponent": 2.0,  # how steeply the weight of a sample falls
    "pair_exponent": 2.0,  # how steeply the weight of a pair moves with its cosine
}
WEIGHT_OPTIONS = {"alip_text": "text_weight", "alip_caption": "caption_weight"}
OTHER = {"alip_text": "text_embeds", "alip_caption": "caption_embeds"}


def build(config, length: RunInfo) -> Objective:
    """L = text_weight * alip_text + caption_weight * alip_caption.

    With v_i, t_i, c_i the embeddings [B, D] of image, text and second caption, a_i = t_i.c_i, and for the
    branch of y (the texts t, or the captions c) d_i = v_i.y_i:

        branch(y) = 1/B sum_i w_i 1/2 [CE_i(s V Y') + CE_i(s Y V')]
        w_i = exp(2 (a_i - H_a)) exp(2 (d_i - H_d)) where a_i < H_a, else 1
        H <- 0.99 H + 0.01 mean_i(.), from H = 1, before this batch is weighed

    The first factor is the paper's weight of a sample, the second that of a pair, which may exceed 1. Where
    the first is not below 1, the released code clips it to 1 and gives the pair weight 1 too. Weights and
    running means carry no gradient; s is shared by both branches, and learned. Texts and captions are not
    contrasted with each other. Since H begins at 1, the loss begins at about e^-4 of its later size.

    Exponents of 2 and a momentum of 0.99 are constants in the released code; that the paper calls them
    hyper-parameters is our reading. Differences from that code: the means are part of the checkpoint, where
    it forgets them; each branch keeps its own copy of H_a, with the same bits, so that either may be used
    alone.

    Args:
      config: `text_weight` and `caption_weight` (0 drops the branch), `momentum` in [0, 1],
        `sample_exponent` and `pair_exponent` (0 for no such weight).
      length: not used.

    Raises:
      UserError: an option out of range, or no branch at all.
    """
    del length
    weights = read_weights(config, WEIGHT_OPTIONS)
    if not weights:
        raise UserError("objective 'alip' has text_weight=0 and caption_weight=0: raise one of them.")
    return Objective("alip", weighted_sum(weights), {name: alip_term(name, config) for name in weights}, fixed(weights))


def alip_term(name: str, config) -> Term:
    """The branch `alip_text` or `alip_caption`; `config` has the options of `DEFAULTS`."""
    other = OTHER[name]
    momentum = _in_range(config, "momentum", 1.0)
    sample_exponent = _in_range(config, "sample_exponent", math.inf)
    pair_exponent = _in_range(config, "pair_exponent", math.inf)

    def sums(rows_KD, scalars, batch):
        del scalars, batch
        consistency = jnp.sum(rows_KD["text_embeds"] * rows_KD["caption_embeds"])
        return {"consistency": consistency, "match": jnp.sum(rows_KD["image_embeds"] * rows_KD[other])}

    def next_state(state, sums, batch):
        return {key: momentum * state[key] + (1 - momentum) * (sums[key] / batch) for key in state}

    def rows(block: RowBlock) -> jax.Array:
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
        row_loss=rows,
    )


def _in_range(config, option: str, most: float) -> float:
    value = config[option]
    if not (0 <= value <= most and math.isfinite(value)):
        upper = f" to {most:g}" if math.isfinite(most) else " up"
        raise UserError(f"objective.{option}={value}: it must be a finite number from 0{upper}.")
    return float(value)
