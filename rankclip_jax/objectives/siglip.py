"""SigLIP: a binary decision for every image-text pair (Zhai et al. 2023, arXiv 2303.15343).

Evidence: released code (big_vision and open_clip).
"""

import math

import jax
import jax.numpy as jnp

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import INPUTS
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Scalar, Term
from rankclip_jax.objectives.options import positive
from rankclip_jax.objectives.weighting import fixed

DEFAULTS = {
    "initial_scale": 10.0,  # initial value of exp(logit_scale), which multiplies cosines
    "initial_bias": -10.0,  # initial value of logit_bias, which is added to every logit; never clamped
    "clamp_scale": False,  # keep the scale in [1, 100] as open_clip does; big_vision does not
}


def build(config, run: RunInfo) -> Objective:
    """L = -1/B sum_ij log sigmoid(z_ij (s v_i.t_j + b)), z_ij = 1 if i = j, else -1.

    The loss is a sum over the B texts and a mean over the B images; each of the B^2 pairs counts once. The scale
    s = exp(logit_scale) and the bias b = logit_bias are learned and start at 10 and -10. Nothing is detached. The code
    computes softplus(-z l) of each logit l, which neither overflows nor underflows at any scale.

    Difference from the released code: big_vision adds 1e-8 to the norm of the embeddings; here the towers normalise
    them.

    The published initial b is for large batches. Of B logits in a row, one is a match: a prior of b = -log(B - 1). For
    small batches, a search for `initial_bias` may pay (our reading).

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a scale that is not positive (or, if clamped, outside [1, 100]), or a bias that is not finite.
    """
    return Objective("siglip", "L = SigLIP", {"siglip": siglip_term(config, run)}, fixed({"siglip": 1.0}))


def siglip_term(config, run: RunInfo) -> Term:
    """The whole loss, with the learned scalars of `config`. It reads images by block and gathers only texts."""
    del run
    return Term(inputs=INPUTS, local=("image_embeds",), scalars=_scalars(config), row_loss=_row_loss)


TERMS = {"siglip": siglip_term}


def _row_loss(block: RowBlock) -> jax.Array:
    """Sum of -log sigmoid(z l) over the images of the block and all texts."""
    logits_CB = block.scale * block.cosine(*INPUTS) + block.scalars["logit_bias"]
    return jnp.sum(jax.nn.softplus(jnp.where(block.diagonal, -logits_CB, logits_CB)))


def _scalars(config) -> dict[str, Scalar]:
    scale, bias = positive(config, "initial_scale"), float(config.initial_bias)
    if config.clamp_scale and not 1 <= scale <= 100:
        raise UserError(
            f"objective.initial_scale={scale:g} is outside the range 1 to 100 of clamp_scale=True: "
            "use a value inside, or set clamp_scale=False."
        )
    if not math.isfinite(bias):
        raise UserError(f"objective.initial_bias={bias}: it must be a finite number, such as -10.")
    limits = (0.0, math.log(100.0)) if config.clamp_scale else (-math.inf, math.inf)
    return {"logit_scale": Scalar(math.log(scale), *limits), "logit_bias": Scalar(bias, -math.inf, math.inf)}
