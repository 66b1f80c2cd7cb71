"""Diagnostics of an objective's terms: gradients, agreement of rankings, duplicate captions, clamped scalars.

They are computed at log steps only, in a separate function: the train step is the same with and without them.

Letters: B global rows, N rows of a sample of the batch, D embedding, L tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.models.two_towers import OUTPUTS
from rankclip_jax.objectives.clip import CLIP, INPUTS
from rankclip_jax.objectives.objective import Objective, Term, cosine
from rankclip_jax.objectives.rows import LossAndGradients, loss_and_gradients
from rankclip_jax.parallel.mesh import block_if_cpu_collectives
from rankclip_jax.training.gradcache import make_forward
from rankclip_jax.training.optimizer import locked_parts
from rankclip_jax.training.options import DEFAULT, StepOptions

# Lists are compared over the first rows of a batch, which is in random order: a few hundred thousand item pairs.
SAMPLE = 64
Arrays = Mapping[str, jax.Array]


def make_diagnostics(
    towers: nn.Module, objective: Objective, mesh: Mesh, options: StepOptions = DEFAULT
) -> Callable[..., dict[str, jax.Array]]:
    """Return f(params, batch, weights, objective_state, step, model_state) -> {name: float32 scalar}, a pure function.

    For each term, with g its gradient with respect to the embeddings. g excludes two parts that train nothing: the
    radial part, which normalisation removes, and the embeddings of locked towers.

        loss_<term>              the term, unweighted
        grad_norm_<term>         |g|, unweighted
        grad_share_<term>        weight |g| / sum of weight |g| over all terms
        cosine_with_clip_<term>  <g, g_clip> / |g| |g_clip|; 0 if either gradient is 0

    g_clip is the gradient of CLIP's loss, also if the objective has no term "clip". The cosine is absent without a
    learned scale, and for a term that reads none of CLIP's embeddings. For the batch:

        agreement_cross_modal    see `agreement`; image i's list of texts against text i's list of images
        agreement_in_modal       see `agreement`; image i's list of images against text i's list of texts
        duplicate_captions       see `duplicate_captions`
        <scalar>_at_clamp        1 where a learned scalar is at an end of its range, else 0

    The embeddings are the same as in the train step: towers in training mode, the same micro-batches. Changes of the
    towers' state are discarded. All values are finite if the embeddings are. The cost is one forward pass of the
    towers and one loss per term.
    """
    terms = dict(objective.terms)
    if "logit_scale" in objective.scalars:
        terms.setdefault("clip", CLIP)
    alone = {name: dataclasses.replace(objective, terms={name: term}) for name, term in terms.items()}
    functions = {name: loss_and_gradients(one, mesh, options.block_rows) for name, one in alone.items()}
    inputs = tuple(dict.fromkeys((*INPUTS, *objective.inputs)))
    forward = make_forward(towers, inputs, mesh, options)
    locked = locked_parts(options.frozen_towers or {})

    def diagnostics(
        params: dict, batch: Arrays, weights: Arrays, objective_state: dict | None = None, step=0, model_state=None
    ):
        embeds, _, _ = forward(params["towers"], model_state or {}, batch, step)
        scalars = params["scalars"]
        results = {
            name: function(embeds, scalars, {name: jnp.float32(1.0)}, objective_state, step)
            for name, function in functions.items()
        }
        results = without_locked(results, locked)
        image_ND, text_ND = (embeds[name][:SAMPLE] for name in INPUTS)
        return {
            **of_terms(objective.terms, results, embeds, weights),
            "agreement_cross_modal": agreement(cosine(image_ND, text_ND), cosine(text_ND, image_ND)),
            "agreement_in_modal": agreement(cosine(image_ND, image_ND), cosine(text_ND, text_ND)),
            "duplicate_captions": duplicate_captions(batch["tokens"]),
            **at_clamp(objective, scalars),
        }

    return diagnostics


def jit_diagnostics(diagnostics: Callable, objective: Objective, mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    """Compile for `mesh`: (state, batch) -> {"diagnostics/<name>": scalar}, for the state before its next step."""

    def of_state(state: dict, batch: Arrays) -> dict[str, jax.Array]:
        weights = objective.weights(state["step"])
        found = diagnostics(state["params"], batch, weights, state["objective"], state["step"], state["model_state"])
        return {f"diagnostics/{name}": value for name, value in found.items()}

    compiled = jax.jit(of_state, out_shardings=NamedSharding(mesh, P()))
    # Block, because the next step does not depend on this program.
    return lambda state, batch: block_if_cpu_collectives(compiled(state, batch))


def without_locked(results: Mapping[str, LossAndGradients], locked: Sequence[str]) -> dict[str, LossAndGradients]:
    """`results` without the gradients of the outputs of locked towers and heads."""

    def trains(name: str) -> bool:
        tower, _, kind = OUTPUTS[name]
        return not {tower, f"{tower}_head" if kind == "logits" else tower} <= set(locked)

    return {
        term: result._replace(d_embeds={name: d for name, d in result.d_embeds.items() if trains(name)})
        for term, result in results.items()
    }


def of_terms(
    terms: Mapping[str, Term], results: Mapping[str, LossAndGradients], embeds: Arrays, weights: Arrays
) -> dict[str, jax.Array]:
    """Loss of each term, norm and share of its gradient, and the cosine with CLIP's gradient; see `make_diagnostics`.

    `results` has one result for each term alone, with weight 1, at `embeds`. Cosines need the result of "clip" too.
    """
    gradients = {name: along_the_sphere(result.d_embeds, embeds) for name, result in results.items()}
    norms = {name: jnp.sqrt(_inner(gradient, gradient)) for name, gradient in gradients.items()}
    total = sum(weights[name] * norms[name] for name in terms)
    found = {}
    for name in terms:
        found[f"loss_{name}"] = results[name].loss
        found[f"grad_norm_{name}"] = norms[name]
        found[f"grad_share_{name}"] = _ratio(weights[name] * norms[name], total)
        if name != "clip" and "clip" in gradients and gradients[name].keys() & gradients["clip"].keys():
            inner = _inner(gradients[name], gradients["clip"])
            found[f"cosine_with_clip_{name}"] = _ratio(_ratio(inner, norms[name]), norms["clip"])
    return found


def along_the_sphere(gradient: Arrays, embeds: Arrays) -> dict[str, jax.Array]:
    """Gradients without their radial part, which the normalisation of the embeddings removes."""

    def project(name: str, d_BD: jax.Array) -> jax.Array:
        if "embeds" not in name:
            return d_BD
        unit_BD = embeds[name]
        return d_BD - jnp.sum(d_BD * unit_BD, axis=1, keepdims=True) * unit_BD

    return {name: project(name, d_BD) for name, d_BD in gradient.items()}


def agreement(first_NN: jax.Array, second_NN: jax.Array) -> jax.Array:
    """How similarly two matrices order the items of each row, float32: 1 for equal orders, 0 for reversed ones.

    Row i of each matrix has the scores of all items; item i is ignored. The result is the fraction of the item pairs,
    over all rows, that both lists order in the same way. Pairs that tie in either list are excluded. Chance level is
    0.5; without any pair the result is 0.5. It equals (tau + 1) / 2 with Kendall's tau over pairs without ties.
    """
    differences = [x_NN[:, :, None] - x_NN[:, None, :] for x_NN in (first_NN, second_NN)]
    other_NN = ~jnp.eye(len(first_NN), dtype=bool)
    counts = other_NN[:, :, None] & other_NN[:, None, :] & (differences[0] != 0) & (differences[1] != 0)
    alike = counts & ((differences[0] > 0) == (differences[1] > 0))
    pairs = jnp.sum(counts, dtype=jnp.float32)
    return jnp.where(pairs > 0, _ratio(jnp.sum(alike, dtype=jnp.float32), pairs), 0.5)


def duplicate_captions(tokens_BL: jax.Array) -> jax.Array:
    """Fraction of rows whose caption occurs in another row too: 0 if all captions differ, 1 if none is unique.

    Rows are sorted by two hashes, and neighbours are compared token by token: time B log B, and no B x B array.
    """
    rng = np.random.default_rng(0)
    factors_L2 = rng.integers(1, 2**32, (tokens_BL.shape[1], 2), dtype=np.uint32) | 1
    hashes = [jnp.sum(tokens_BL.astype(jnp.uint32) * factors_L2[None, :, i], axis=1, dtype=jnp.uint32) for i in (0, 1)]
    rows_B = jnp.arange(len(tokens_BL))
    order_B = lax.sort((*hashes, rows_B), num_keys=2)[2]
    sorted_BL = tokens_BL[order_B]
    same = jnp.all(sorted_BL[1:] == sorted_BL[:-1], axis=1)
    alone = jnp.zeros(1, bool)
    return jnp.mean(jnp.concatenate([same, alone]) | jnp.concatenate([alone, same]), dtype=jnp.float32)


def at_clamp(objective: Objective, scalars: Arrays) -> dict[str, jax.Array]:
    """{"<scalar>_at_clamp": 1 at an end of its range, else 0}, for the scalars with a finite range."""
    return {
        f"{name}_at_clamp": ((scalars[name] <= x.minimum) | (scalars[name] >= x.maximum)).astype(jnp.float32)
        for name, x in objective.scalars.items()
        if np.isfinite([x.minimum, x.maximum]).any()
    }


def _inner(a: Arrays, b: Arrays) -> jax.Array:
    return sum(jnp.sum(a[name] * b[name]) for name in a if name in b)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole; 0 where `whole` is 0."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)
