"""RankCLIP with one list of all B^2 pairs, as the paper's formula prints it. For research.

    - log prod_{i,j} u_ij / sum_{(k,l): r_kl <= r_ij} u_kl        u = exp(s cosine), r the reference cosine

The released code and the paper's figure have one list per row instead. As in the row-wise form, and unlike the printed
formula, utilities are exponentials with the learned scale (negative cosines have no logarithm), both directions are
summed, and the sum is divided by 32 B^2: a mean over the B^2 items, / 32 (our reading).

One device computes the list once, from all gathered embeddings. Its memory and time grow with B^2.

Letters: B rows of the global batch, D embedding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.objective import RowBlock, cosine

MAX_BATCH = 2048  # four million pairs


def batch_lists(block: RowBlock, cosines, include_diagonal: bool) -> tuple[jax.Array, jax.Array]:
    """The two lists [1, B^2] of cosines, with pair (i, j) at the same index in both.

    Args:
      block: any block; only `gathered` is read.
      cosines: names of arrays, ((rows, columns) of the first list, (rows, columns) of the second list).
      include_diagonal: False excludes the B own pairs; the lists are then [1, B^2 - B].

    Raises:
      UserError: the batch is larger than `MAX_BATCH`.
    """
    if block.batch > MAX_BATCH:
        raise UserError(
            f"objective.list_scope='batch' makes one list of all pairs and allows a batch of at most {MAX_BATCH:,}, "
            f"not {block.batch:,}: use list_scope='row', as the released code does."
        )
    return tuple(_flat(matrix, include_diagonal) for matrix in _square(block, cosines))


def only_once(block: RowBlock, compute: Callable[[], jax.Array]) -> jax.Array:
    """`compute()` in the block that contains row 0, and zero in all other blocks and on all other devices."""
    zero = jnp.zeros((), jnp.result_type(*block.gathered.values()))
    return lax.cond(block.index_C[0] == 0, compute, lambda: zero)


def _square(block: RowBlock, cosines) -> tuple[jax.Array, jax.Array]:
    """Both matrices [B, B]. Entries that are equal by definition get equal bits, or they would not tie."""
    (first, second) = (cosine(block.gathered[rows], block.gathered[columns]) for rows, columns in cosines)
    if cosines[0] == cosines[1][::-1]:
        return first, first.T
    return _symmetric(first), _symmetric(second)


def _symmetric(x_BB: jax.Array) -> jax.Array:
    """Make cosines symmetric. Cosines of equal rows, such as the diagonal, become exactly 1 and tie."""
    x_BB = (x_BB + x_BB.T) / 2
    rounding = 16 * jnp.finfo(x_BB.dtype).eps
    return jnp.where(jnp.abs(x_BB - 1) <= rounding, x_BB + lax.stop_gradient(1 - x_BB), x_BB)


def _flat(x_BB: jax.Array, include_diagonal: bool) -> jax.Array:
    if include_diagonal:
        return x_BB.reshape(1, -1)
    size = len(x_BB)
    # After the first entry, rows of length B + 1 have the diagonal in their last column.
    return x_BB.reshape(-1)[1:].reshape(size - 1, size + 1)[:, :-1].reshape(1, -1)
