"""The towers' side of a training step: embeddings of a batch, and from their gradients those of the parameters.

In one pass, or in micro-batches (GradCache: Gao et al. 2021, arXiv 2101.06983). Then the towers embed one
micro-batch after the other and keep nothing but the embeddings; the objective sees those of the whole batch;
and each micro-batch goes through the towers again, with the same random numbers, to carry its part of the
gradient back. For towers that treat each example alone this is exact for every objective, at the memory of
one micro-batch and the price of one more forward pass.

Batch normalisation, in ResNets and in distribution heads, does not treat each example alone: its statistics
are those of a micro-batch. Running statistics still move once a step, to the mean of what the micro-batches
would each have made of them.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError
from rankclip_jax.parallel.mesh import BATCH, replicated
from rankclip_jax.training.optimizer import locked_parts

Arrays = dict[str, jax.Array]
PullBack = Callable[[Arrays], dict]


def check_micro_batches(micro_batches: int, local: int) -> None:
    """Refuse a number of micro-batches that does not divide the `local` rows of one device."""
    if micro_batches < 1 or local % micro_batches:
        divisors = ", ".join(str(n) for n in range(1, local + 1) if local % n == 0)
        raise UserError(
            f"config.micro_batches={micro_batches} does not divide the {local} rows of one device: "
            f"use one of {divisors}."
        )


def make_forward(
    towers: nn.Module, inputs: Sequence[str], mesh: Mesh, micro_batches: int = 1, seed: int = 0
) -> Callable[..., tuple[Arrays, dict, PullBack]]:
    """Return f(tower_params, model_state, batch, step, frozen=None) -> (embeds, model_state, pull_back).

    Args:
      towers: with a method `compute` as that of `TwoTowers`.
      inputs: names of the arrays to make.
      mesh: over all of which the batch is spread; so is each micro-batch.
      micro_batches: how many; 1 for the whole batch at once.
      seed: of the towers' random numbers, which are a function of it, the step and the micro-batch.

    `model_state` holds the towers' mutable collections; the one returned has this batch in it. `pull_back`
    takes gradients with respect to the embeddings to those with respect to the parameters; they are zero, and
    nothing is computed for them, where the tree of bools `frozen` says so. A tower that is frozen as a whole runs
    as in evaluation: its norms use their running statistics, and leave them as they are.
    """

    def embed(tower_params, model_state, batch, key, frozen):
        locked = locked_parts(frozen) if frozen is not None else ()
        if frozen is not None:
            tower_params = jax.tree.map(lambda p, held: lax.stop_gradient(p) if held else p, tower_params, frozen)
        variables = replicated({"params": tower_params, **model_state}, mesh)
        return towers.apply(
            variables,
            inputs,
            batch,
            train=True,
            locked=locked,
            method="compute",
            mutable=list(model_state),
            rngs={"patch_dropout": key},
        )

    def at_once(tower_params, model_state, batch, step, frozen=None):
        def of(tower_params):
            return embed(tower_params, model_state, batch, _key(seed, step), frozen)

        embeds, pull_back, new_state = jax.vjp(of, tower_params, has_aux=True)
        return embeds, new_state, lambda d_embeds: pull_back(d_embeds)[0]

    def in_parts(tower_params, model_state, batch, step, frozen=None):
        keys = jax.random.split(_key(seed, step), micro_batches)
        parts = (split(batch, micro_batches, mesh), keys)

        def visit(total, part):
            embeds, state = embed(tower_params, model_state, *part, frozen)
            return _add(total, state), embeds

        total, embeds = lax.scan(visit, _zeros(model_state), parts)

        def pull_back(d_embeds):
            def visit(total, inputs):
                part, d_embeds = inputs
                _, pull = jax.vjp(lambda params: embed(params, model_state, *part, frozen)[0], tower_params)
                return _add(total, pull(d_embeds)[0]), None

            return lax.scan(visit, _zeros(tower_params), (parts, split(d_embeds, micro_batches, mesh)))[0]

        return join(embeds, mesh), jax.tree.map(lambda x: x / micro_batches, total), pull_back

    return at_once if micro_batches == 1 else in_parts


def split(arrays: Arrays, parts: int, mesh: Mesh) -> Arrays:
    """[B, ...] to [parts, B / parts, ...]: part i has the rows r with r mod parts = i.

    So each device splits the rows that it has, and which rows are together does not depend on the devices.
    """
    spread = NamedSharding(mesh, P(None, *BATCH))

    def one(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)
        return lax.with_sharding_constraint(x, spread)

    return jax.tree.map(one, arrays)


def join(arrays: Arrays, mesh: Mesh) -> Arrays:
    """The inverse of `split`."""
    spread = NamedSharding(mesh, BATCH)

    def one(x: jax.Array) -> jax.Array:
        return lax.with_sharding_constraint(jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), spread)

    return jax.tree.map(one, arrays)


def _key(seed: int, step) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), step)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _add(left, right):
    return jax.tree.map(jnp.add, left, right)
