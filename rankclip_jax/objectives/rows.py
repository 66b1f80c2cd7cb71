"""The one place that knows about devices: from embeddings to the loss and its gradients.

Each device holds K of the B rows, gathers all B embeddings once, and walks blocks of C rows. A block
sees [C, B] similarities; nothing of size B x B or K x B ever exists. The loss being a scalar, each
block's gradient is taken while the block is at hand, so there is no second pass and nothing is
stored for one.

Letters: B global rows, K rows of this device, C rows of a block, D embedding.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.objective import Objective, RowBlock

# Elements of a block's [C, B] arrays, of which a ranking term keeps some 70 at a time. On CPUs small blocks
# stay in cache: at B = 1024, 64 rows take a sixth less time than 512 and a sixth of the memory; 128 rows would
# save another twentieth of the time for half as much memory again.
CPU_BLOCK_ELEMENTS = 2**16
BLOCK_ELEMENTS = 2**22
# Below this the steps along the ranks cost more than the work in them: smaller only for want of memory.
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


def loss_and_gradients(objective: Objective, mesh: Mesh, block_rows: int = 0) -> Callable[..., LossAndGradients]:
    """Return f(embeds, scalars, weights, state, step) -> LossAndGradients over all axes of `mesh`.

    Args:
      objective: what to compute.
      mesh: every axis shards the batch.
      block_rows: C; rows left over are a smaller block. 0 chooses by the C * B that suits the backend's memory.

    The returned function takes `embeds` {name: [B, D] unit-norm}, `scalars` {name: scalar}, `weights`
    {term: scalar}, for objectives that have one `state`, and `step` for those that read it; it computes in
    the embeddings' dtype, at least float32.
    """
    axes = mesh.axis_names
    rows, everywhere = P(axes), P()

    sharded = jax.shard_map(
        functools.partial(_on_one_device, objective, axes, block_rows),
        mesh=mesh,
        in_specs=(rows, everywhere, everywhere, everywhere, everywhere),
        out_specs=LossAndGradients(everywhere, everywhere, rows, everywhere, everywhere),
        # Gradients are taken inside one device's block, never through a collective.
        check_vma=False,
    )

    def over_the_mesh(embeds, scalars, weights, state=None, step=0) -> LossAndGradients:
        return sharded(embeds, scalars, weights, state or {}, jnp.int32(step))

    return over_the_mesh


def _on_one_device(objective, axes, block_rows, embeds_KD, scalars, weights, state, step) -> LossAndGradients:
    """Sums over the batch, then blocks of rows, then what follows from the sums alone."""
    embeds_KD = {name: _at_least_float32(embeds_KD[name]) for name in objective.inputs}
    gathered_BD = {name: lax.all_gather(embeds_KD[name], axes, tiled=True) for name in objective.gathered}
    batch = _rows_of(embeds_KD) * lax.axis_size(axes)
    local_sums, pull_sums = jax.vjp(functools.partial(_sums, objective, batch), embeds_KD, scalars)
    sums = lax.psum(local_sums, axes)
    state = _next_state(objective, state, sums, batch)

    rows_loss = functools.partial(_rows_loss, objective, weights, state, step, batch)
    terms, d_rows_KD, d_everyone_BD, *d_shared = _walk_blocks(
        objective, rows_loss, axes, block_rows, embeds_KD, gathered_BD, scalars, sums
    )
    # Every device knows the sums: what follows from them alone is computed once, not once per device.
    terms, d_scalars, d_sums = lax.psum((terms, *d_shared), axes)
    whole, d_whole_sums, d_whole_scalars = _whole_gradients(objective, weights, batch, sums, scalars)
    d_from_sums_KD, d_scalars_from_sums = pull_sums(_add(d_sums, d_whole_sums))

    terms = {name: terms.get(name, 0.0) + whole.get(name, 0.0) for name in objective.terms}
    d_scalars = _add(d_scalars, d_whole_scalars, lax.psum(d_scalars_from_sums, axes))
    d_columns_KD = {name: lax.psum_scatter(d, axes, tiled=True) for name, d in d_everyone_BD.items()}
    d_embeds_KD = {
        name: d_rows_KD[name] + d_from_sums_KD[name] + d_columns_KD.get(name, 0.0) for name in objective.inputs
    }
    return LossAndGradients(_weighted(terms, weights), terms, d_embeds_KD, d_scalars, state)


def _walk_blocks(objective, rows_loss, axes, block_rows, embeds_KD, gathered_BD, scalars, sums):
    """Value and gradients of the row terms of this device, block by block.

    Returns (terms, d_rows_KD, d_everyone_BD, d_scalars, d_sums), all but the second summed over blocks.
    """
    local = _rows_of(embeds_KD)
    block = block_size(local, local * lax.axis_size(axes), block_rows)
    one = jnp.ones((), jnp.result_type(*embeds_KD.values()))

    def visit(totals, inputs):
        rows_CD, index_C = inputs
        given = (rows_CD, gathered_BD, scalars, sums)
        _, pull, terms = jax.vjp(functools.partial(rows_loss, index_C), *given, has_aux=True)
        d_rows_CD, *d_shared = pull(one)
        return _add(totals, [terms, *d_shared]), d_rows_CD

    index_K = lax.axis_index(axes) * local + jnp.arange(local)
    no_terms = {name: jnp.zeros_like(one) for name, term in objective.terms.items() if term.row_loss}
    zeros = [no_terms, *jax.tree.map(jnp.zeros_like, (gathered_BD, scalars, sums))]
    (terms, *d_shared), d_rows_KD = _over_blocks(visit, zeros, (embeds_KD, index_K), block)
    return terms, d_rows_KD, *d_shared


def _over_blocks(visit, totals, inputs_K, block):
    """`lax.scan` of `visit` over blocks of rows; those left over are a smaller block, visited last."""
    local = inputs_K[1].shape[0]
    even = local - local % block
    blocks = jax.tree.map(lambda x: x[:even].reshape(-1, block, *x.shape[1:]), inputs_K)
    totals, found = lax.scan(visit, totals, blocks)
    found = jax.tree.map(lambda x: x.reshape(even, *x.shape[2:]), found)
    if even < local:
        totals, rest = visit(totals, jax.tree.map(lambda x: x[even:], inputs_K))
        found = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), found, rest)
    return totals, found


def _rows_loss(objective, weights, state, step, batch, index_C, rows_CD, gathered_BD, scalars, sums):
    """Weighted sum of the row terms over one block, as a share of the batch's mean, and each of them."""
    block = RowBlock(rows_CD, gathered_BD, scalars, index_C, batch, step)
    found = {
        name: term.row_loss(block.of(sums.get(name), state.get(name))) / batch
        for name, term in objective.terms.items()
        if term.row_loss
    }
    return _weighted(found, weights) + jnp.zeros((), jnp.result_type(*rows_CD.values())), found


def _sums(objective: Objective, batch, rows_KD, scalars) -> dict[str, Any]:
    """What each term sums over rows, for the rows of this device; made once for all terms that share it."""
    functions = {name: term.sums for name, term in objective.terms.items() if term.sums}
    made = {function: function(rows_KD, scalars, batch) for function in dict.fromkeys(functions.values())}
    return {name: made[function] for name, function in functions.items()}


def _whole_gradients(objective: Objective, weights, batch, sums, scalars):
    """Terms, or parts of terms, that follow from the sums alone, with their gradients."""
    dtype = jnp.result_type(*scalars.values(), *jax.tree.leaves(sums), jnp.float32)

    def loss(sums, scalars):
        found = {
            name: term.from_sums(sums[name], scalars, batch) for name, term in objective.terms.items() if term.from_sums
        }
        return _weighted(found, weights) + jnp.zeros((), dtype), found

    (_, found), (d_sums, d_scalars) = jax.value_and_grad(loss, (0, 1), has_aux=True)(sums, scalars)
    return found, d_sums, d_scalars


def _next_state(objective: Objective, state, sums, batch) -> dict[str, Any]:
    """Running statistics with this batch in them; they carry no gradient."""
    sums = lax.stop_gradient(sums)
    updates = {name: term.next_state for name, term in objective.terms.items() if term.next_state}
    return {name: update(state[name], sums.get(name), batch) for name, update in updates.items()}


def _rows_of(arrays) -> int:
    return next(iter(arrays.values())).shape[0]


def _weighted(terms, weights) -> jax.Array:
    return sum(weights[name].astype(value.dtype) * value for name, value in terms.items())


def _add(*trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def block_size(local: int, batch: int, requested: int = 0) -> int:
    """Rows of one block: `requested`, or as many as the memory budget allows, a divisor of `local` if one is near.

    Raises:
      UserError: `requested` is negative.
    """
    if requested < 0:
        raise UserError(f"objective.block_rows={requested}: use a number of rows, or 0 to choose by memory.")
    if requested:
        return min(requested, local)
    elements = CPU_BLOCK_ELEMENTS if jax.default_backend() == "cpu" else BLOCK_ELEMENTS
    limit = min(local, max(1, elements // batch, min(SMALLEST_BLOCK, BLOCK_ELEMENTS // batch)))
    divisor = max(rows for rows in range(1, limit + 1) if local % rows == 0)
    # A left-over block has to be compiled too: only where no divisor is near.
    return divisor if 2 * divisor > limit else limit


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
