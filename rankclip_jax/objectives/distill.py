"""Progressive self-distillation (Andonian et al., CVPR 2022, arXiv 2204.04588).

This is a reconstruction from the paper's abstract only. There is no released code, and the text of the paper was not
available. The abstract states that the model distils its own knowledge into soft targets for a subset of the images and
texts of each batch, at no added computational cost. All else is our reading: the teacher, the swapped predictions, the
schedule, the temperature, and the choice of the subset.

Sources disagree on the teacher. Two later texts describe it as a moving average of the model; one of them is the
related work of ALIP's paper. The abstract promises no added cost, and a second network would add cost. Therefore the
teacher here is the current model. The paper's section on the method would settle all of this.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import lookup
from rankclip_jax.objectives.clip import INPUTS, LOGIT_SCALE, symmetric_rows
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term
from rankclip_jax.objectives.options import at_least_zero, positive
from rankclip_jax.objectives.weighting import fixed, weighted_sum

DEFAULTS = {
    "unaligned_start": 0.0,  # fraction of the batch with soft targets at the start of training
    "unaligned_end": 0.5,  # the same at the end of training
    "target_temperature": 0.07,  # the targets divide cosines by it
    "subset": "random",  # which rows: "random", or "similarity": rows with the lowest cosine of their own pair
}


def build(config, run: RunInfo) -> Objective:
    """L = aligned + distilled: one-hot targets for some rows of the batch, soft targets for the rest (our reading).

        P_I = softmax(s V T')             P_T = softmax(s T V')              softmax over rows of B
        A_I = sg softmax(T V' / tau)      A_T = sg softmax(V T' / tau)       swapped
        aligned   = 1/2B sum_{i not in U} [CE(e_i, P_I,i) + CE(e_i, P_T,i)]  CLIP's loss of those rows
        distilled = 1/2B sum_{i in U}     [CE(A_I,i, P_I,i) + CE(A_T,i, P_T,i)]

    with V, T [B, D] and CE(q, p) = -sum_j q_j log p_j. The teacher is the model itself at the same step: the prediction
    from image i to all texts should equal the prediction from text i to all images, and vice versa. Targets carry no
    gradient (sg). Both terms are divided by the whole batch: if U grows, `aligned` falls and `distilled` grows.
    `distilled` includes the entropy of the targets.

    U holds round(f B) rows, the same in both directions, with

        f = start + (end - start) (1 - cos(pi t)) / 2,   t the fraction of training done

    ``subset="random"`` draws a new U at each step. It depends on the run's seed and the step only, not on devices,
    blocks and restarts. ``"similarity"`` takes the rows with the lowest cosine of their own pair. Rows that tie are all
    in U or all outside, independent of their order in the batch.

    The formulas rest on the paper's abstract. Start, end, temperature and subset are unknown; the defaults are ours.

    `config` has the options of `DEFAULTS`; `run` has the total steps and the seed.

    Raises:
      UserError: a fraction outside [0, 1], a temperature that is not positive, or an unknown subset.
    """
    weights = {"aligned": 1.0, "distilled": 1.0}
    terms = {name: TERMS[name](config, run) for name in weights}
    equation = (
        f"{weighted_sum(weights)}, unaligned share {config.unaligned_start:g} to {config.unaligned_end:g} by cosine, "
        f"chosen {CHOSEN[config.subset]}, targets at temperature {config.target_temperature:g}"
    )
    return Objective("distill", equation, terms, fixed(weights))


def distill_term(name: str, config, run: RunInfo) -> Term:
    """The term "aligned" or "distilled"; arguments and errors as in `build`."""
    order = functools.partial(lookup(ORDERS, config.subset, "objective.subset"), run.seed)
    start, end = (at_least_zero(config, option, maximum=1.0) for option in ("unaligned_start", "unaligned_end"))
    temperature = positive(config, "target_temperature")

    def unaligned(block: RowBlock) -> jax.Array:
        share = unaligned_share(block.step, run.total_steps, start, end)
        return lowest(order(block), block.index_C, jnp.round(share * block.batch))

    row_losses = {
        "aligned": lambda block: _sum_where(~unaligned(block), symmetric_rows(block, *INPUTS)),
        "distilled": lambda block: _sum_where(unaligned(block), _distilled_rows(block, temperature)),
    }
    return Term(inputs=INPUTS, scalars={"logit_scale": LOGIT_SCALE}, row_loss=row_losses[name])


TERMS = {name: functools.partial(distill_term, name) for name in ("aligned", "distilled")}


def unaligned_share(step: jax.Array | int, total_steps: int, start: float, end: float) -> jax.Array:
    """start + (end - start) (1 - cos(pi step / total)) / 2, float32; `end` from the last step on."""
    done = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
    return start + (end - start) * 0.5 * (1.0 - jnp.cos(jnp.pi * done))


def lowest(order_B: jax.Array, index_C: jax.Array, count: jax.Array) -> jax.Array:
    """Whether rows `index_C` are among the `count` lowest of the batch, bool [C]. Ties are all in or all out.

    A row is in if fewer than `count` rows are lower. Counting takes [C, B] comparisons and no sort.
    """
    return jnp.sum(order_B[None, :] < order_B[index_C][:, None], axis=1) < count


def _random_order(seed: int, block: RowBlock) -> jax.Array:
    """Random integers [B] for this run and step, equal on all devices and in all blocks."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), block.step)
    return jax.random.bits(key, (block.batch,))


def _similarity_order(seed: int, block: RowBlock) -> jax.Array:
    """Cosine [B] between image and text of each pair; only the order is used."""
    del seed
    image_BD, text_BD = (lax.stop_gradient(block.gathered[name]) for name in INPUTS)
    return jnp.sum(image_BD * text_BD, axis=1)


ORDERS = {"random": _random_order, "similarity": _similarity_order}
CHOSEN = {"random": "at random", "similarity": "by similarity"}  # for the equation


def _distilled_rows(block: RowBlock, temperature: float) -> jax.Array:
    """1/2 [CE(A_I, P_I) + CE(A_T, P_T)] of each row of the block, [C]."""
    total_C = 0.0
    for a, b in (INPUTS, INPUTS[::-1]):
        targets_CB = jax.nn.softmax(lax.stop_gradient(block.cosine(b, a)) / temperature, axis=1)
        total_C += -0.5 * jnp.sum(targets_CB * jax.nn.log_softmax(block.scale * block.cosine(a, b), axis=1), axis=1)
    return total_C


def _sum_where(chosen_C: jax.Array, values_C: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(chosen_C, values_C, 0.0))
