"""What an objective is: a sum of named terms over rows of the batch, ignorant of devices.

Letters: B global rows, C rows of a block, D embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

Arrays = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Scalar:
    """A learned scalar of an objective, clamped to [minimum, maximum] after each update."""

    initial: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class RunLength:
    """How long a run is, for weights that change over training."""

    total_steps: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Objective:
    """loss = sum over terms of weight(step) * (1/B) * sum over the B rows of the term.

    Attributes:
      name: registry name.
      equation: the objective with its weights, for the start-up card and the report.
      needs: names of the [B, D] arrays that `block` reads.
      scalars: learned scalars by name.
      weights: step (int32 scalar) -> weight of each term; its keys are the terms.
      block: (rows, everyone, scalars, row_index_C) -> {term: sum over the C rows}.
        `rows` holds [C, D] arrays, `everyone` the same arrays for the whole batch [B, D], and
        `row_index_C` says which global rows these are. Everything in it may carry gradient.
    """

    name: str
    equation: str
    needs: tuple[str, ...]
    scalars: Mapping[str, Scalar]
    weights: Callable[[jax.Array], dict[str, jax.Array]]
    block: Callable[[Arrays, Arrays, Arrays, jax.Array], dict[str, jax.Array]]

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms, CLIP's first."""
        return tuple(self.weights(jnp.int32(0)))


def cosine(rows_CD: jax.Array, everyone_BD: jax.Array) -> jax.Array:
    """Cosines [C, B] of unit-norm embeddings, in full precision.

    The order of a list depends on the low bits, and TPUs and recent GPUs would otherwise multiply
    in bf16 or TF32. Equal columns must give equal bits, or duplicates would not tie. XLA's CPU
    product of a matrix with a single row breaks that, so a single row is computed twice.
    """
    if rows_CD.shape[0] == 1:
        return cosine(jnp.concatenate([rows_CD, rows_CD]), everyone_BD)[:1]
    return jnp.einsum("CD,BD->CB", rows_CD, everyone_BD, precision=lax.Precision.HIGHEST)
