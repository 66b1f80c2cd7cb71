"""SigLIP: every image and text is a yes or no of its own (Zhai et al. 2023, arXiv 2303.15343).

After the released code (big_vision and open_clip).
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
    "initial_scale": 10.0,  # multiplies cosines at the start
    "initial_bias": -10.0,  # added to every logit at the start; never clamped
    "clamp_scale": False,  # keep the scale in [1, 100] as open_clip does; big_vision does not
}


def build(config, length: RunInfo) -> Objective:
    """L = -1/B sum_ij log sigmoid(z_ij (s v_i.t_j + b)), z_ij = 1 where i = j and -1 elsewhere.

    A sum over all texts and a mean over images; each of the B^2 pairs counts once. s = exp(logit_scale)
    and the bias b (`logit_bias`) are learned, starting at 10 and -10; no stop-gradient. It is computed as
    softplus(-z l), which neither overflows nor underflows at any scale. The released code of big_vision
    adds 1e-8 to the norm of embeddings; ours are normalised in the towers.

    The start of b is published for large batches. At B pairs one logit in B is a match, a prior of
    b = -log(B - 1), so for small batches `initial_bias` is worth a search (our reading).

    Args:
      config: `initial_scale`, `initial_bias`, `clamp_scale`.
      length: not used.

    Raises:
      UserError: a scale that is not positive (or, clamped, outside [1, 100]), or a bias that is not finite.
    """
    del length
    return Objective("siglip", "L = SigLIP", {"siglip": siglip_term(config)}, fixed({"siglip": 1.0}))


def siglip_term(config) -> Term:
    """The whole loss, with its scalars from `config`. Images are read by their own rows alone, never gathered."""
    return Term(inputs=INPUTS, local=("image_embeds",), scalars=_scalars(config), row_loss=_rows)


def _rows(block: RowBlock) -> jax.Array:
    """Sum over the images of the block and all texts of -log sigmoid(z l)."""
    logits_CB = block.scale * block.cosine(*INPUTS) + block.scalars["logit_bias"]
    return jnp.sum(jax.nn.softplus(jnp.where(block.own, -logits_CB, logits_CB)))


def _scalars(config) -> dict[str, Scalar]:
    scale, bias = positive(config, "initial_scale"), float(config.initial_bias)
    if config.clamp_scale and not 1 <= scale <= 100:
        raise UserError(
            f"objective.initial_scale={scale:g} is outside 1 to 100, where clamp_scale=True keeps it: "
            "start inside, or set clamp_scale=False."
        )
    if not math.isfinite(bias):
        raise UserError(f"objective.initial_bias={bias}: it must be a finite number, such as -10.")
    limits = (0.0, math.log(100.0)) if config.clamp_scale else (-math.inf, math.inf)
    return {"logit_scale": Scalar(math.log(scale), *limits), "logit_bias": Scalar(bias, -math.inf, math.inf)}
