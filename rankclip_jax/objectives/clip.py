"""CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020, Figure 3)."""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.objectives.objective import Arrays, Objective, RunLength, Scalar, cosine

# exp(log_scale) multiplies the cosines: 1 / 0.07 at the start, never above 100 (CLIP, section 2.5).
LOG_SCALE = Scalar(initial=math.log(1 / 0.07), minimum=0.0, maximum=math.log(100.0))
NEEDS = ("image_embeds", "text_embeds")


def contrastive_rows(logits_CB: jax.Array, matching_C: jax.Array) -> jax.Array:
    """Cross-entropy of each row against its matching column.

    Args:
      logits_CB: [C, B] scaled similarities.
      matching_C: [C] scaled similarity of each row's own pair, the entry on the diagonal.

    Returns:
      [C]: logsumexp of the row less the matching entry.
    """
    return jax.nn.logsumexp(logits_CB, axis=1) - matching_C


def clip_rows(image_logits_CB: jax.Array, text_logits_CB: jax.Array, matching_C: jax.Array) -> jax.Array:
    """Sum over C rows of 1/2 [CE(image -> text) + CE(text -> image)]."""
    rows_C = contrastive_rows(image_logits_CB, matching_C) + contrastive_rows(text_logits_CB, matching_C)
    return 0.5 * jnp.sum(rows_C)


def build(config, length: RunLength) -> Objective:
    """L = 1/2 [CE(S) + CE(S^T)] with S = exp(log_scale) V T^T and CE a mean over rows.

    No stop-gradient; the scale is learned. `config` has no options for this objective.
    """
    del config, length

    def block(rows: Arrays, everyone: Arrays, scalars: Arrays, row_index_C: jax.Array):
        del row_index_C
        scale = jnp.exp(scalars["log_scale"])
        image_CD, text_CD = rows["image_embeds"], rows["text_embeds"]
        image_logits_CB = scale * cosine(image_CD, everyone["text_embeds"])
        text_logits_CB = scale * cosine(text_CD, everyone["image_embeds"])
        matching_C = scale * jnp.sum(image_CD * text_CD, axis=1)
        return {"clip": clip_rows(image_logits_CB, text_logits_CB, matching_C)}

    return Objective(
        name="clip",
        equation="L = CLIP",
        needs=NEEDS,
        scalars={"log_scale": LOG_SCALE},
        weights=lambda step: {"clip": jnp.float32(1.0)},
        block=block,
    )
