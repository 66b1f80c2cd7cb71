"""The towers' part of a train step: the embeddings of a batch, and the gradient of the towers' parameters.

The batch goes through the towers at once or in micro-batches (GradCache: Gao et al. 2021, arXiv 2101.06983). With
micro-batches, the first pass embeds one micro-batch after the other and stores only the embeddings. The objective
computes their gradient for the whole batch. The second pass embeds each micro-batch again, with the same random
numbers, and backpropagates its part of that gradient. For towers that treat each example alone this is exact for every
objective. It needs the memory of one micro-batch and costs one more forward pass.

Batch normalisation (in ResNets and in distribution heads) mixes examples: it uses the statistics of a micro-batch.
Running statistics still change once per step, to the mean of the micro-batches' values.
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
from rankclip_jax.training.options import DEFAULT, StepOptions

Arrays = dict[str, jax.Array]
PullBack = Callable[[Arrays], dict]
Forward = Callable[..., tuple[Arrays, dict, PullBack]]


def check_micro_batches(micro_batches: int, local: int) -> None:
    """Raise a UserError, which names the divisors, if `micro_batches` does not divide the `local` rows of a device."""
    if micro_batches < 1 or local % micro_batches:
        divisors = ", ".join(str(n) for n in range(1, local + 1) if local % n == 0)
        raise UserError(
            f"config.micro_batches={micro_batches} does not divide the {local} rows of one device: "
            f"use one of {divisors}."
        )


def make_forward(towers: nn.Module, inputs: Sequence[str], mesh: Mesh, options: StepOptions = DEFAULT) -> Forward:
    """Return f(tower_params, model_state, batch, step) -> (embeds, model_state, pull_back).

    Args:
      towers: has the method `compute` of `TwoTowers`.
      inputs: names of the arrays that the towers compute, keys of `two_towers.OUTPUTS`.
      mesh: splits the batch, and each micro-batch, over all of its devices.
      options: `micro_batches`, `seed` and `frozen` are read.

    `model_state` holds the towers' mutable collections; the returned one includes this batch. `pull_back` maps the
    gradient of the embeddings to the gradient of the parameters. It is zero for frozen parameters, at no cost. A tower
    that is frozen as a whole runs as in evaluation: its norms use their running statistics and do not change them.
    Random numbers are a function of the seed, the step and the micro-batch.
    """
    embed = _make_embed(towers, inputs, mesh, options)
    return (_at_once if options.micro_batches == 1 else _in_micro_batches)(embed, mesh, options)


def _make_embed(towers: nn.Module, inputs: Sequence[str], mesh: Mesh, options: StepOptions) -> Callable:
    """Return f(tower_params, model_state, batch, key) -> (embeds, model_state), for a batch or a micro-batch."""
    frozen = options.frozen_towers
    locked = () if frozen is None else locked_parts(frozen)

    def embed(tower_params, model_state, batch, key):
        if frozen is not None:
            tower_params = jax.tree.map(lambda p, held: lax.stop_gradient(p) if held else p, tower_params, frozen)
        variables, rngs = replicated({"params": tower_params, **model_state}, mesh), {"patch_dropout": key}
        mode = {"train": True, "locked": locked, "method": "compute"}
        return towers.apply(variables, inputs, batch, **mode, mutable=list(model_state), rngs=rngs)

    return embed


def _at_once(embed: Callable, mesh: Mesh, options: StepOptions) -> Forward:
    def forward(tower_params, model_state, batch, step):
        def of(tower_params):
            return embed(tower_params, model_state, batch, _key(options.seed, step))

        embeds, pull_back, new_state = jax.vjp(of, tower_params, has_aux=True)
        return embeds, new_state, lambda d_embeds: pull_back(d_embeds)[0]

    return forward


def _in_micro_batches(embed: Callable, mesh: Mesh, options: StepOptions) -> Forward:
    count = options.micro_batches

    def forward(tower_params, model_state, batch, step):
        parts = (split(batch, count, mesh), jax.random.split(_key(options.seed, step), count))

        def visit(total, part):
            embeds, state = embed(tower_params, model_state, *part)
            return _add(total, state), embeds

        total, embeds = lax.scan(visit, _zeros(model_state), parts)

        def pull_back(d_embeds):
            def visit(total, inputs):
                part, d_embeds = inputs
                _, pull = jax.vjp(lambda params: embed(params, model_state, *part)[0], tower_params)
                return _add(total, pull(d_embeds)[0]), None

            return lax.scan(visit, _zeros(tower_params), (parts, split(d_embeds, count, mesh)))[0]

        return join(embeds, mesh), jax.tree.map(lambda x: x / count, total), pull_back

    return forward


def split(arrays: Arrays, parts: int, mesh: Mesh) -> Arrays:
    """[B, ...] to [parts, B / parts, ...]: part i has the rows r with r mod parts = i, on any number of devices.

    Each device splits its own rows.
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
