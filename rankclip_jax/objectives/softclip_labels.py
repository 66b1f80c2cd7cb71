"""A public SoftCLIP-like recipe: CLIP's one-hot labels mixed with cosines between texts, in one cross-entropy.

It is no implementation of the paper, but of the idea in its abstract (`softclip`). Evidence: code of a course project.

Differences from that code: it computes the cosines between captions and the names of detected objects, with a frozen
text encoder, and here they are between captions, with the text tower that is trained. It compares symmetrised cosines
at the fixed temperature 0.1, and here both directions have the learned temperature.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.objectives.clip import INPUTS, LOGIT_SCALE
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import at_least_zero
from rankclip_jax.objectives.weighting import fixed

DEFAULTS = {"one_hot_share": 0.7}  # fraction of the one-hot labels; the rest is the cosines between texts


def build(config, run: RunInfo) -> Objective:
    """L = soft_labels = -1/2B sum_ij y_ij [log P_I,ij + log P_T,ij].

    With V and T [B, D], S = s V T', P_I = softmax(S) and P_T = softmax(S') over rows of B, and the labels
    y_ij = h [i = j] + (1 - h) t_i.t_j, where h is `one_hot_share`. Labels carry no gradient. As in the code they are
    neither normalised nor clipped: a negative cosine pushes a text away from an image.

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a share outside [0, 1].
    """
    term = soft_labels_term(config, run)
    equation = f"L = soft_labels, {config.one_hot_share:g} one-hot and {1 - config.one_hot_share:g} cosines of texts"
    return Objective(config.name, equation, {"soft_labels": term}, fixed({"soft_labels": 1.0}))


def soft_labels_term(config, run: RunInfo) -> Term:
    """The term "soft_labels"; arguments and errors as in `build`."""
    del run
    share = at_least_zero(config, "one_hot_share", maximum=1.0)
    image, text = INPUTS

    def row_loss(block: RowBlock) -> jax.Array:
        soft_CB = lax.stop_gradient(block.cosine(text, text))
        labels_CB = jnp.where(block.diagonal, share, 0.0) + (1 - share) * soft_CB
        logs_CB = sum(
            jax.nn.log_softmax(block.scale * block.cosine(a, b), axis=1) for a, b in ((image, text), (text, image))
        )
        return -0.5 * jnp.sum(labels_CB * logs_CB)

    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=row_loss)


TERMS = {"soft_labels": soft_labels_term}
