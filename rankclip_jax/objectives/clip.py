"""CLIP's symmetric contrastive loss (Radford et al. 2021, arXiv 2103.00020, Figure 3).

Evidence: released code (OpenAI CLIP and open_clip).
"""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Scalar, Term, without_options
from rankclip_jax.objectives.weighting import fixed

# exp(logit_scale) multiplies the cosines: 1 / 0.07 at the start, never above 100 (CLIP, section 2.5).
LOGIT_SCALE = Scalar(initial=math.log(1 / 0.07), minimum=0.0, maximum=math.log(100.0))
INPUTS = ("image_embeds", "text_embeds")
DEFAULTS = {}  # no options


def contrastive_rows(logits_CB: jax.Array, matching_C: jax.Array) -> jax.Array:
    """Cross-entropy [C] of each row against its matching column: logsumexp of the row minus the matching entry.

    Args:
      logits_CB: [C, B] scaled cosines.
      matching_C: [C] scaled cosine of each row's own pair, the entry on the diagonal.
    """
    return jax.nn.logsumexp(logits_CB, axis=1) - matching_C


def symmetric_rows(block: RowBlock, a: str, b: str) -> jax.Array:
    """1/2 [CE(a -> b) + CE(b -> a)] of each row of the block, [C]."""
    matching_C = block.scale * block.matching(a, b)
    a_to_b_C = contrastive_rows(block.scale * block.cosine(a, b), matching_C)
    return 0.5 * (a_to_b_C + contrastive_rows(block.scale * block.cosine(b, a), matching_C))


CLIP = Term(
    inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=lambda block: jnp.sum(symmetric_rows(block, *INPUTS))
)
TERMS = {"clip": without_options(CLIP)}


def build(config, run: RunInfo) -> Objective:
    """L = 1/2 [CE(S) + CE(S^T)] with S = s V T^T, V and T [B, D], and CE a mean over the B rows.

    The scale s = exp(logit_scale) is learned; nothing is detached. On any number of devices, loss and gradient are
    those of the global batch. There are no options; `config` and `run` are unused.
    """
    del config, run
    return Objective("clip", "L = CLIP", {"clip": CLIP}, fixed({"clip": 1.0}))
