"""CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020, Figure 3)."""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Scalar, Term

# exp(logit_scale) multiplies the cosines: 1 / 0.07 at the start, never above 100 (CLIP, section 2.5).
LOGIT_SCALE = Scalar(initial=math.log(1 / 0.07), minimum=0.0, maximum=math.log(100.0))
INPUTS = ("image_embeds", "text_embeds")
DEFAULTS = {}  # it has no options


def contrastive_rows(logits_CB: jax.Array, matching_C: jax.Array) -> jax.Array:
    """Cross-entropy of each row against its matching column.

    Args:
      logits_CB: [C, B] scaled similarities.
      matching_C: [C] scaled similarity of each row's own pair, the entry on the diagonal.

    Returns:
      [C]: logsumexp of the row less the matching entry.
    """
    return jax.nn.logsumexp(logits_CB, axis=1) - matching_C


def symmetric_rows(block: RowBlock, a: str, b: str) -> jax.Array:
    """1/2 [CE(a -> b) + CE(b -> a)] of each row of the block, [C]."""
    matching_C = block.scale * block.matching(a, b)
    a_to_b_C = contrastive_rows(block.scale * block.cosine(a, b), matching_C)
    return 0.5 * (a_to_b_C + contrastive_rows(block.scale * block.cosine(b, a), matching_C))


CLIP = Term(
    inputs=INPUTS,
    scalars={"logit_scale": LOGIT_SCALE},
    row_loss=lambda block: jnp.sum(symmetric_rows(block, *INPUTS)),
)


def build(config, length: RunInfo) -> Objective:
    """L = 1/2 [CE(S) + CE(S^T)] with S = exp(logit_scale) V T^T and CE a mean over rows.

    No stop-gradient; the scale is learned. `config` has no options for this objective.
    """
    del config, length
    return Objective("clip", "L = CLIP", {"clip": CLIP}, lambda step: {"clip": jnp.float32(1.0)})
