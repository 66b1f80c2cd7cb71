"""Training on a random part of each image's patches (FLIP, Li et al. 2023, arXiv 2212.00794).

Letters: B batch, T tokens, D width, K kept.
"""

import jax
import jax.numpy as jnp


def keep_some(x_BTD: jax.Array, share: float, key: jax.Array, first: int = 0) -> jax.Array:
    """The first `first` tokens, and of the others a uniform random subset, drawn for each row alone.

    Positions must have been added: what is kept is in no order, and attention knows none.

    Args:
      share: of the other tokens is kept, rounded to a whole number of them that is at least one.
      key: decides all; rows differ by their place in the batch.
    """
    prefix, others = x_BTD[:, :first], x_BTD[:, first:]
    kept = max(1, round(share * others.shape[1]))
    _, chosen_BK = jax.lax.top_k(jax.random.uniform(key, others.shape[:2]), kept)
    return jnp.concatenate([prefix, jnp.take_along_axis(others, chosen_BK[..., None], axis=1)], axis=1)
