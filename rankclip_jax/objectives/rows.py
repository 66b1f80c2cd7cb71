"""The one place that knows about devices: from embeddings to the loss and its gradients.

Each device holds K of the B rows, gathers all B embeddings once, and walks blocks of C rows. A block
sees [C, B] similarities; nothing of size B x B or K x B ever exists. The loss being a scalar, each
block's gradient is taken while the block is at hand, so there is no second pass and nothing is
stored for one.

Letters: B global rows, K rows of this device, C rows of a block, D embedding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.objective import Arrays, Objective

# A block's largest [C, B] array. 4 Mi floats keep CPU caches and accelerator memory comfortable.
BLOCK_ELEMENTS = 4 * 2**20


class LossAndGradients(NamedTuple):
    """Scalars are replicated; `d_embeds` is sharded over the batch like the embeddings.

    Attributes:
      loss: scalar, the weighted sum of the terms.
      terms: {term: scalar}, unweighted, each a mean over the B rows.
      d_embeds: {name: [B, D]}.
      d_scalars: {name: scalar}.
    """

    loss: jax.Array
    terms: dict[str, jax.Array]
    d_embeds: dict[str, jax.Array]
    d_scalars: dict[str, jax.Array]


def loss_and_gradients(objective: Objective, mesh: Mesh, block_rows: int = 0) -> Callable[..., LossAndGradients]:
    """Return f(embeds, scalars, weights) -> LossAndGradients over all axes of `mesh`.

    Args:
      objective: what to compute.
      mesh: every axis shards the batch.
      block_rows: C; it must divide the rows of one device. 0 chooses the largest divisor for which
        C * B stays below `BLOCK_ELEMENTS`.

    The returned function takes `embeds` {name: [B, D] unit-norm}, `scalars` {name: scalar} and
    `weights` {term: scalar}; it computes in the embeddings' dtype, at least float32.
    """
    axes = mesh.axis_names
    rows, everywhere = P(axes), P()

    def on_one_device(embeds_KD: Arrays, scalars: Arrays, weights: Arrays) -> LossAndGradients:
        return _sum_blocks(objective, axes, block_rows, embeds_KD, scalars, weights)

    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(rows, everywhere, everywhere),
        out_specs=LossAndGradients(everywhere, everywhere, rows, everywhere),
        # Gradients are taken inside one device's block, never through a collective.
        check_vma=False,
    )


def _sum_blocks(objective, axes, block_rows, embeds_KD, scalars, weights) -> LossAndGradients:
    embeds_KD = jax.tree.map(_at_least_float32, {name: embeds_KD[name] for name in objective.needs})
    dtype = jnp.result_type(*embeds_KD.values())
    everyone_BD = jax.tree.map(lambda x: lax.all_gather(x, axes, tiled=True), embeds_KD)
    local = next(iter(embeds_KD.values())).shape[0]
    batch = next(iter(everyone_BD.values())).shape[0]
    block = block_size(local, batch, block_rows)
    first_row = lax.axis_index(axes) * local

    def weighted_sum(rows_CD, everyone_BD, scalars, index_C):
        terms = objective.block(rows_CD, everyone_BD, scalars, index_C)
        return sum(weights[name].astype(dtype) * value for name, value in terms.items()), terms

    def visit(totals, inputs):
        rows_CD, index_C = inputs
        loss, pull, terms = jax.vjp(
            lambda *given: weighted_sum(*given, index_C), rows_CD, everyone_BD, scalars, has_aux=True
        )
        d_rows_CD, d_everyone_BD, d_scalars = pull(jnp.ones_like(loss))
        totals = jax.tree.map(jnp.add, totals, (loss, terms, d_everyone_BD, d_scalars))
        return totals, d_rows_CD

    blocks = jax.tree.map(lambda x: x.reshape(local // block, block, *x.shape[1:]), embeds_KD)
    index = (first_row + jnp.arange(local)).reshape(-1, block)
    zeros = (
        jnp.zeros((), dtype),
        {name: jnp.zeros((), dtype) for name in weights},
        jax.tree.map(jnp.zeros_like, everyone_BD),
        jax.tree.map(jnp.zeros_like, scalars),
    )
    (loss, terms, d_everyone_BD, d_scalars), d_rows = lax.scan(visit, zeros, (blocks, index))
    d_columns_KD = jax.tree.map(lambda x: lax.psum_scatter(x, axes, tiled=True), d_everyone_BD)
    d_embeds_KD = jax.tree.map(lambda r, c: (r.reshape(c.shape) + c) / batch, d_rows, d_columns_KD)
    loss, terms, d_scalars = jax.tree.map(lambda x: lax.psum(x, axes) / batch, (loss, terms, d_scalars))
    return LossAndGradients(loss, terms, d_embeds_KD, d_scalars)


def block_size(local: int, batch: int, requested: int = 0) -> int:
    """Rows of one block: `requested`, or the largest divisor of `local` within the memory budget.

    Raises:
      UserError: `requested` does not divide `local`.
    """
    if requested:
        if requested < 0 or local % requested:
            raise UserError(
                f"objective.block_rows={requested} does not divide the {local} rows of one device: "
                "use a divisor, or 0 to choose by memory."
            )
        return requested
    limit = max(1, BLOCK_ELEMENTS // batch)
    return max(rows for rows in range(1, min(local, limit) + 1) if local % rows == 0)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
