"""Training on a random subset of each image's patches (FLIP, Li et al. 2023, arXiv 2212.00794).

Letters: B batch, T tokens, D width, K number of kept tokens.
"""

import jax
import jax.numpy as jnp


def keep_some(x_BTD: jax.Array, share: float, key: jax.Array, first: int = 0) -> jax.Array:
    """Keep the first `first` tokens and a random subset of the others, drawn for each row.

    Add position embeddings before: the kept tokens are in random order.

    Args:
      x_BTD: the tokens.
      share: fraction of the other tokens to keep; K is rounded and at least 1.
      key: the only source of randomness; rows differ by their index in the batch.
      first: number of leading tokens that are always kept, such as the class token.

    Returns:
      [B, first + K, D].
    """
    prefix, others = x_BTD[:, :first], x_BTD[:, first:]
    kept = max(1, round(share * others.shape[1]))
    _, chosen_BK = jax.lax.top_k(jax.random.uniform(key, others.shape[:2]), kept)
    return jnp.concatenate([prefix, jnp.take_along_axis(others, chosen_BK[..., None], axis=1)], axis=1)
