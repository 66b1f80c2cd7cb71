"""Progressive self-distillation (Andonian et al., CVPR 2022, arXiv 2204.04588).

There is no released code, and we have read the abstract only. What it states: the model distils its own
knowledge into soft targets for a subset of images and texts of every batch. All else here is our reading:
that the teacher is the current student, that predictions are swapped, the schedule, the temperature, and
how the subset is chosen.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import lookup
from rankclip_jax.objectives.clip import INPUTS, LOGIT_SCALE, symmetric_rows
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import fraction, positive
from rankclip_jax.objectives.weighting import fixed, weighted_sum

DEFAULTS = {
    "unaligned_start": 0.0,  # share of the batch with soft targets when training starts
    "unaligned_end": 0.5,  # and when it ends
    "target_temperature": 0.07,  # cosines are divided by it in the targets
    "subset": "random",  # which rows: "random", or "similarity": those least similar to their own pair
}


def build(config, length: RunInfo) -> Objective:
    """L = aligned + distilled: one-hot targets for some rows of the batch, soft ones for the rest (our reading).

        P_I = softmax(s V T')             P_T = softmax(s T V')              softmax over rows of B
        A_I = sg softmax(T V' / tau)      A_T = sg softmax(V T' / tau)       swapped
        aligned   = 1/2B sum_{i not in U} [CE(e_i, P_I,i) + CE(e_i, P_T,i)]  CLIP's loss of those rows
        distilled = 1/2B sum_{i in U}     [CE(A_I,i, P_I,i) + CE(A_T,i, P_T,i)]

    with CE(q, p) = -sum_j q_j log p_j. The teacher is the student of the same step: row i of the prediction
    from image i to all texts should look like that from text i to all images, and the other way about.
    Targets carry no gradient. Both terms are divided by the whole batch, so `aligned` falls and
    `distilled` grows as U does; the entropy of the targets is a part of `distilled`.

    U holds round(f B) rows, the same in both directions, with

        f = start + (end - start) (1 - cos(pi t)) / 2,   t the fraction of training done

    ``subset="random"`` draws them anew at every step as a function of the run's seed, step and row alone, so that
    neither devices nor blocks nor a restart change them. ``"similarity"`` takes the rows least similar to their own
    pair; rows that tie come in together, whatever their order in the batch.

    Not known from the paper: start and end, temperature, which subset. The defaults are ours.

    Args:
      config: `unaligned_start`, `unaligned_end`, `target_temperature`, `subset` ("random" | "similarity").
      length: how long the run is.

    Raises:
      UserError: a share outside [0, 1], a temperature that is not positive, or an unknown subset.
    """
    weights = {"aligned": 1.0, "distilled": 1.0}
    terms = {name: distill_term(name, config, length) for name in weights}
    equation = (
        f"{weighted_sum(weights)}, unaligned share {config.unaligned_start:g} to {config.unaligned_end:g} by cosine, "
        f"chosen {CHOSEN[config.subset]}, targets at temperature {config.target_temperature:g}"
    )
    return Objective("distill", equation, terms, fixed(weights))


def distill_term(name: str, config, length: RunInfo) -> Term:
    """One of the two terms, "aligned" or "distilled"; args and raises as those of `build`."""
    order = functools.partial(lookup(ORDERS, config.subset, "objective.subset"), length.seed)
    start, end = fraction(config, "unaligned_start"), fraction(config, "unaligned_end")
    temperature = positive(config, "target_temperature")

    def unaligned(block: RowBlock) -> jax.Array:
        share = unaligned_share(block.step, length.total_steps, start, end)
        return lowest(order(block), block.index_C, jnp.round(share * block.batch))

    rows = {
        "aligned": lambda block: _sum_where(~unaligned(block), symmetric_rows(block, *INPUTS)),
        "distilled": lambda block: _sum_where(unaligned(block), _distilled_rows(block, temperature)),
    }
    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=rows[name])


def unaligned_share(step: jax.Array | int, total_steps: int, start: float, end: float) -> jax.Array:
    """start + (end - start) (1 - cos(pi step / total)) / 2: float32, `end` from the last step on."""
    done = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
    return start + (end - start) * 0.5 * (1.0 - jnp.cos(jnp.pi * done))


def lowest(order_B: jax.Array, index_C: jax.Array, count: jax.Array) -> jax.Array:
    """Whether rows `index_C` are among the `count` lowest of the batch, bool [C]; ties are in or out together.

    A row is in if fewer than `count` are below it. Counting them needs no sort, and [C, B] comparisons.
    """
    below_C = jnp.sum(order_B[None, :] < order_B[index_C][:, None], axis=1)
    return below_C < count


def _random_order(seed: int, block: RowBlock) -> jax.Array:
    """Random numbers [B] of this run and step: every device and block draws the same."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), block.step)
    return jax.random.bits(key, (block.batch,))


def _similarity_order(seed: int, block: RowBlock) -> jax.Array:
    """Cosine [B] of every row and its own pair; only their order is used."""
    del seed
    image_BD, text_BD = (lax.stop_gradient(block.gathered[name]) for name in INPUTS)
    return jnp.sum(image_BD * text_BD, axis=1)


ORDERS = {"random": _random_order, "similarity": _similarity_order}
CHOSEN = {"random": "at random", "similarity": "by similarity"}  # in the equation


def _distilled_rows(block: RowBlock, temperature: float) -> jax.Array:
    """1/2 [CE(A_I, P_I) + CE(A_T, P_T)] of each row of the block, [C]."""
    total_C = 0.0
    for a, b in (INPUTS, INPUTS[::-1]):
        targets_CB = jax.nn.softmax(lax.stop_gradient(block.cosine(b, a)) / temperature, axis=1)
        total_C += -0.5 * jnp.sum(targets_CB * jax.nn.log_softmax(block.scale * block.cosine(a, b), axis=1), axis=1)
    return total_C


def _sum_where(chosen_C: jax.Array, values_C: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(chosen_C, values_C, 0.0))
