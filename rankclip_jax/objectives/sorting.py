"""Row-wise ordering of similarities, with the sort that is fastest on each platform.

Letters: C rows of a block, B columns (rows of the global batch).
"""

import jax
import jax.numpy as jnp
from jax import lax


def row_order(reference_CB: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Order each row ascending, and equal values by column.

    Args:
      reference_CB: float32 or float64 [C, B]. +0 and -0 are equal. NaN sorts below or above all numbers, by its sign.

    Returns:
      order_CB: int32 [C, B], the columns of each row from its lowest value to its highest.
      ends_tie_CB: bool [C, B], True at the last sorted position of each group of equal values.

    XLA's CPU sort is fast for a single integer operand only. On CPUs one int64 therefore holds the order-preserving
    bits of the float and its column: exact, stable, and 3-4 x faster than sorting floats with an index. Accelerators
    sort two operands fast, and 64-bit integers slowly.
    """
    keys_CB = _ordered_bits(reference_CB)
    if keys_CB.dtype == jnp.int64:
        return _sort_pairs(keys_CB)
    return lax.platform_dependent(keys_CB, cpu=_sort_packed, default=_sort_pairs)


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Map floats to integers of the same width and the same order."""
    integer, mantissa_and_exponent = {
        jnp.dtype("float32"): (jnp.int32, 0x7FFFFFFF),
        jnp.dtype("float64"): (jnp.int64, 0x7FFFFFFFFFFFFFFF),
    }[x.dtype]
    # Map -0 to +0. XLA would simplify the shorter `x + 0.0` away.
    bits = lax.bitcast_convert_type(jnp.where(x == 0, jnp.zeros_like(x), x), integer)
    return jnp.where(bits < 0, bits ^ mantissa_and_exponent, bits)


def _sort_packed(keys_CB: jax.Array) -> tuple[jax.Array, jax.Array]:
    # 64-bit types exist only inside this context; nothing 64 bits wide leaves it.
    with jax.enable_x64(True):
        column_CB = lax.broadcasted_iota(jnp.int64, keys_CB.shape, 1)
        packed_CB = lax.sort((keys_CB.astype(jnp.int64) << 32) | column_CB, dimension=1)
        order_CB = (packed_CB & 0xFFFFFFFF).astype(jnp.int32)
        sorted_CB = (packed_CB >> 32).astype(jnp.int32)
    return order_CB, _ends_tie(sorted_CB)


def _sort_pairs(keys_CB: jax.Array) -> tuple[jax.Array, jax.Array]:
    column_CB = lax.broadcasted_iota(jnp.int32, keys_CB.shape, 1)
    sorted_CB, order_CB = lax.sort((keys_CB, column_CB), dimension=1, num_keys=1, is_stable=True)
    return order_CB, _ends_tie(sorted_CB)


def _ends_tie(sorted_CB: jax.Array) -> jax.Array:
    differs = sorted_CB[:, :-1] != sorted_CB[:, 1:]
    return jnp.concatenate([differs, jnp.ones_like(differs, shape=(differs.shape[0], 1))], axis=1)
