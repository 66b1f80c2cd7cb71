"""From embeddings to the loss and its gradients: the only module of the objectives that knows about devices.

Each device holds K of the B rows, gathers all B embeddings once, and processes its rows in blocks of C. A block
computes [C, B] similarities; no array of size B x B or K x B ever exists. The gradient of a block is computed together
with its loss, because the loss is a scalar. No second pass is needed, and no activations are stored.

Letters: B rows of the global batch, K rows of this device, C rows of a block, D embedding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rankclip_jax.objectives.objective import Arrays, Objective, RowBlock
from rankclip_jax.objectives.options import check_block_rows

# Elements of a [C, B] array of a block. A ranking term keeps about 70 such arrays at a time. On CPUs small blocks stay
# in cache: at B = 1024, 64 rows take a sixth less time than 512 rows and a sixth of the memory. 128 rows would save
# another twentieth of the time for 1.5 times the memory.
CPU_BLOCK_ELEMENTS = 2**16
BLOCK_ELEMENTS = 2**22
# In smaller blocks the loop over the ranks costs more than the work inside it. They are used only if memory is short.
SMALLEST_BLOCK = 64


class LossAndGradients(NamedTuple):
    """Scalars are replicated; `d_embeds` is sharded over the batch like the embeddings.

    Attributes:
      loss: scalar, the weighted sum of the terms.
      terms: {term: scalar}, unweighted.
      d_embeds: {name: [B, ...]}.
      d_scalars: {name: scalar}.
      state: {term: its state after this batch}.
    """

    loss: jax.Array
    terms: dict[str, jax.Array]
    d_embeds: dict[str, jax.Array]
    d_scalars: dict[str, jax.Array]
    state: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One computation of the loss on one device: the values that all blocks share and that have no gradient."""

    objective: Objective
    axes: tuple[str, ...]  # of the mesh; all of them shard the batch
    batch: int  # B
    block: int  # C
    weights: Arrays  # {term: scalar}
    state: dict[str, Any]  # {term: its state}
    step: jax.Array  # int32 scalar


class Shared(NamedTuple):
    """Arrays that all blocks read. Each block contributes to their gradient."""

    gathered_BD: dict[str, jax.Array]
    scalars: dict[str, jax.Array]
    sums: dict[str, Any]


def loss_and_gradients(objective: Objective, mesh: Mesh, block_rows: int = 0) -> Callable[..., LossAndGradients]:
    """Return f(embeds, scalars, weights, state, step) -> LossAndGradients over all axes of `mesh`.

    `block_rows` is C. If C does not divide the rows of a device, the last block is smaller. 0 chooses C by B and the
    memory of the platform.

    The returned function takes `embeds` {name: [B, D] unit-norm}, `scalars` {name: scalar}, `weights` {term: scalar},
    `state` (for objectives that have one) and `step` (for objectives that read it). It computes in the dtype of the
    embeddings, but at least in float32.

    Raises:
      UserError: `block_rows` is negative.
    """
    check_block_rows(block_rows)
    axes, platform = mesh.axis_names, mesh.devices.flat[0].platform
    rows, replicated = P(axes), P()

    def on_one_device(embeds_KD, scalars, weights, state, step):
        embeds_KD = {name: _at_least_float32(embeds_KD[name]) for name in objective.inputs}
        local = _rows_of(embeds_KD)
        batch = local * lax.axis_size(axes)
        block = block_size(local, batch, requested=block_rows, platform=platform)
        return _sweep(Sweep(objective, axes, batch, block, weights, state, step), embeds_KD, scalars)

    sharded = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(rows, replicated, replicated, replicated, replicated),
        out_specs=LossAndGradients(replicated, replicated, rows, replicated, replicated),
        # Each device computes its gradients alone, never through a collective.
        check_vma=False,
    )

    def over_the_mesh(embeds, scalars, weights, state=None, step=0) -> LossAndGradients:
        return sharded(embeds, scalars, weights, state or {}, jnp.int32(step))

    return over_the_mesh


def _sweep(sweep: Sweep, embeds_KD, scalars) -> LossAndGradients:
    """Compute sums over the batch, then blocks of rows, then the parts that depend on the sums only."""
    objective, axes = sweep.objective, sweep.axes
    gathered_BD = {name: lax.all_gather(embeds_KD[name], axes, tiled=True) for name in objective.gathered}
    local_sums, pull_sums = jax.vjp(functools.partial(_sums, sweep), embeds_KD, scalars)
    sums = lax.psum(local_sums, axes)
    sweep = dataclasses.replace(sweep, state=_next_state(sweep, sums))

    (terms, d_shared), d_rows_KD = _row_losses(sweep, embeds_KD, Shared(gathered_BD, scalars, sums))
    terms, d_scalars, d_sums = lax.psum((terms, d_shared.scalars, d_shared.sums), axes)
    # Every device has the totals: parts that depend on them only are not summed over devices.
    from_sums, d_totals, d_scalars_of_totals = _from_sums(sweep, sums, scalars)
    d_sums_KD, d_scalars_of_sums = pull_sums(_add(d_sums, d_totals))

    terms = {name: terms.get(name, 0.0) + from_sums.get(name, 0.0) for name in objective.terms}
    d_scalars = _add(d_scalars, d_scalars_of_totals, lax.psum(d_scalars_of_sums, axes))
    d_gathered_KD = {name: lax.psum_scatter(d, axes, tiled=True) for name, d in d_shared.gathered_BD.items()}
    d_embeds_KD = {name: d_rows_KD[name] + d_sums_KD[name] + d_gathered_KD.get(name, 0.0) for name in objective.inputs}
    return LossAndGradients(_weighted(terms, sweep.weights), terms, d_embeds_KD, d_scalars, sweep.state)


def _row_losses(sweep: Sweep, embeds_KD, shared: Shared):
    """Row losses and gradients of this device: ((terms, d_shared), d_rows_KD). The first two are sums over blocks."""
    local = _rows_of(embeds_KD)
    one = jnp.ones((), jnp.result_type(*embeds_KD.values()))

    def visit(totals, block):
        rows_CD, index_C = block
        _, pull, terms = jax.vjp(functools.partial(_block_loss, sweep, index_C), rows_CD, shared, has_aux=True)
        d_rows_CD, d_shared = pull(one)
        return _add(totals, (terms, d_shared)), d_rows_CD

    index_K = lax.axis_index(sweep.axes) * local + jnp.arange(local)
    no_terms = {name: jnp.zeros_like(one) for name, term in sweep.objective.terms.items() if term.row_loss}
    zeros = no_terms, jax.tree.map(jnp.zeros_like, shared)
    return _over_blocks(visit, zeros, (embeds_KD, index_K), sweep.block)


def _over_blocks(visit, totals, inputs_K, block: int):
    """`lax.scan` of `visit` over blocks of rows. Remaining rows form a smaller block, visited last."""
    local = inputs_K[1].shape[0]
    even = local - local % block
    blocks = jax.tree.map(lambda x: x[:even].reshape(-1, block, *x.shape[1:]), inputs_K)
    totals, found = lax.scan(visit, totals, blocks)
    found = jax.tree.map(lambda x: x.reshape(even, *x.shape[2:]), found)
    if even < local:
        totals, rest = visit(totals, jax.tree.map(lambda x: x[even:], inputs_K))
        found = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), found, rest)
    return totals, found


def _block_loss(sweep: Sweep, index_C, rows_CD, shared: Shared):
    """Weighted sum of the row losses of one block, divided by B, and the value of each."""
    block = RowBlock(rows_CD, shared.gathered_BD, shared.scalars, index_C, sweep.batch, sweep.step)
    found = {}
    for name, term in sweep.objective.terms.items():
        if term.row_loss:
            block = dataclasses.replace(block, sums=shared.sums.get(name), state=sweep.state.get(name))
            found[name] = term.row_loss(block) / sweep.batch
    return _weighted(found, sweep.weights) + jnp.zeros((), jnp.result_type(*rows_CD.values())), found


def _sums(sweep: Sweep, rows_KD, scalars) -> dict[str, Any]:
    """`Term.sums` of each term, for the rows of this device. Terms with the same function share one computation."""
    functions = {name: term.sums for name, term in sweep.objective.terms.items() if term.sums}
    made = {function: function(rows_KD, scalars, sweep.batch) for function in dict.fromkeys(functions.values())}
    return {name: made[function] for name, function in functions.items()}


def _from_sums(sweep: Sweep, sums, scalars):
    """`Term.from_sums` of each term, and the gradients of their weighted sum: (terms, d_sums, d_scalars)."""
    functions = {name: term.from_sums for name, term in sweep.objective.terms.items() if term.from_sums}
    dtype = jnp.result_type(*scalars.values(), *jax.tree.leaves(sums), jnp.float32)

    def loss(sums, scalars):
        found = {name: function(sums[name], scalars, sweep.batch) for name, function in functions.items()}
        return _weighted(found, sweep.weights) + jnp.zeros((), dtype), found

    (_, found), (d_sums, d_scalars) = jax.value_and_grad(loss, (0, 1), has_aux=True)(sums, scalars)
    return found, d_sums, d_scalars


def _next_state(sweep: Sweep, sums) -> dict[str, Any]:
    """Running statistics that include this batch. They carry no gradient."""
    sums = lax.stop_gradient(sums)
    updates = {name: term.next_state for name, term in sweep.objective.terms.items() if term.next_state}
    return {name: update(sweep.state[name], sums.get(name), sweep.batch) for name, update in updates.items()}


def _rows_of(arrays) -> int:
    return next(iter(arrays.values())).shape[0]


def _weighted(terms, weights) -> jax.Array:
    return sum(weights[name].astype(value.dtype) * value for name, value in terms.items())


def _add(*trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def block_size(local: int, batch: int, *, requested: int = 0, platform: str) -> int:
    """C for K = `local` and B = `batch`: `requested`, or if that is 0 the rows that fit the memory of `platform`."""
    if requested:
        return min(requested, local)
    elements = CPU_BLOCK_ELEMENTS if platform == "cpu" else BLOCK_ELEMENTS
    limit = min(local, max(1, elements // batch, min(SMALLEST_BLOCK, BLOCK_ELEMENTS // batch)))
    divisor = max(rows for rows in range(1, limit + 1) if local % rows == 0)
    # Prefer a block size that divides the rows: a remainder block costs a second compilation.
    return divisor if 2 * divisor > limit else limit


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
