"""What an objective is: a weighted sum of terms over rows of the batch. It knows nothing about devices.

Letters: B rows of the global batch, C rows of a block, D embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError

Arrays = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Scalar:
    """A learned scalar of an objective, clamped to [minimum, maximum] after each update."""

    initial: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class RunInfo:
    """The length of a run, for weights that change over training, and its seed, for random choices."""

    total_steps: int
    steps_per_epoch: int
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RowBlock:
    """A block of C rows of the batch: the input of a term. All arrays but `state` and `step` may carry gradient.

    Attributes:
      rows: {name: [C, ...]}, the rows of the block.
      gathered: {name: [B, ...]}, all rows of the batch, without arrays that all terms list in `Term.local`.
      scalars: learned scalars.
      index_C: int32, global indices of the rows.
      batch: B.
      step: int32 scalar, the number of updates done so far.
      sums: the result of `Term.sums`, summed over the whole batch.
      state: state of the term, already updated with this batch.
    """

    rows: Arrays
    gathered: Arrays
    scalars: Arrays
    index_C: jax.Array
    batch: int
    step: jax.Array
    sums: Any = None
    state: Any = None
    _cosines: dict[tuple[str, str], jax.Array] = field(default_factory=dict)  # shared by all terms

    def cosine(self, rows: str, gathered: str) -> jax.Array:
        """Cosines [C, B] between array `rows` of the block and array `gathered` of the whole batch."""
        if (rows, gathered) not in self._cosines:
            self._cosines[rows, gathered] = cosine(self.rows[rows], self.gathered[gathered])
        return self._cosines[rows, gathered]

    def matching(self, a: str, b: str) -> jax.Array:
        """Cosine [C] between `a` and `b` of the same pair."""
        return jnp.sum(self.rows[a] * self.rows[b], axis=1)

    @property
    def diagonal(self) -> jax.Array:
        """bool [C, B], True where the column belongs to the same pair as the row."""
        return jnp.arange(self.batch)[None, :] == self.index_C[:, None]

    @property
    def scale(self) -> jax.Array:
        """The temperature scale exp(logit_scale), which multiplies cosines."""
        return jnp.exp(self.scalars["logit_scale"])


@dataclass(frozen=True)
class Term:
    """One term of an objective: (1/B) sum over all rows of `row_loss`, plus `from_sums`. Either may be absent.

    Attributes:
      inputs: names of the [B, ...] arrays that the term reads.
      row_loss: block -> scalar, the sum over the C rows of the block.
      scalars: learned scalars by name. Terms that name the same scalar share it; their ranges must be equal.
      local: names among `inputs` that the term reads in `block.rows` only. They need no gather.
      sums: (rows, scalars, B) -> tree of small arrays, sums over any number of rows. `block.sums` and `from_sums` get
        the totals over the batch. Terms with the same function share one computation.
      from_sums: (sums, scalars, B) -> scalar, a part of the loss that depends on the sums only.
      state: initial values of running statistics. They are saved in checkpoints and carry no gradient.
      next_state: (state, sums, B) -> state. It runs before the row losses.
    """

    inputs: tuple[str, ...]
    row_loss: Callable[[RowBlock], jax.Array] | None = None
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    local: tuple[str, ...] = ()
    sums: Callable[[Arrays, Arrays, int], Any] | None = None
    from_sums: Callable[[Any, Arrays, int], jax.Array] | None = None
    state: Mapping[str, float] = field(default_factory=dict)
    next_state: Callable[[Any, Any, int], Any] | None = None


MakeTerm = Callable[[ConfigDict, RunInfo], Term]


def without_options(term: Term) -> MakeTerm:
    """A function that makes `term` for any options and run."""
    return lambda config, run: term


@dataclass(frozen=True)
class Objective:
    """loss = sum over terms of weight(step) * term.

    Attributes:
      name: its name in the registry.
      equation: the objective with its weights, for the start-up card and the report.
      terms: {name: term}, in the order to show.
      weights: step (int32 scalar) -> {term: float32 weight}.
    """

    name: str
    equation: str
    terms: Mapping[str, Term]
    weights: Callable[[jax.Array], dict[str, jax.Array]]

    def __post_init__(self):
        for name, term in self.terms.items():
            for scalar, found in term.scalars.items():
                if found != self.scalars[scalar]:
                    raise UserError(
                        f"objective {self.name!r}: term {name!r} has another initial value or range for the learned "
                        f"scalar {scalar!r} than another term: {found} and {self.scalars[scalar]}. Do not mix the two."
                    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that any term reads."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.inputs))

    @property
    def gathered(self) -> tuple[str, ...]:
        """Names among `inputs` that some term reads for the whole batch."""
        read = {name for term in self.terms.values() for name in term.inputs if name not in term.local}
        return tuple(name for name in self.inputs if name in read)

    @property
    def scalars(self) -> dict[str, Scalar]:
        """Learned scalars of all terms."""
        return {name: scalar for term in self.terms.values() for name, scalar in term.scalars.items()}

    def initial_state(self) -> dict[str, dict[str, jax.Array]]:
        """Initial state {term: {name: float32 scalar}} of the terms that have a state."""
        stateful = {name: term.state for name, term in self.terms.items() if term.state}
        return {name: {key: jnp.float32(value) for key, value in state.items()} for name, state in stateful.items()}


def cosine(rows_CD: jax.Array, gathered_BD: jax.Array) -> jax.Array:
    """Cosines [C, B] of unit-norm embeddings, in full precision.

    The order of a list depends on the low bits, and TPUs and recent GPUs would otherwise multiply in bf16 or TF32.
    Equal columns must give equal bits, or duplicates would not tie. XLA's CPU product with a single row violates this;
    a single row is therefore computed as two rows.
    """
    if rows_CD.shape[0] == 1:
        return cosine(jnp.concatenate([rows_CD, rows_CD]), gathered_BD)[:1]
    return jnp.einsum("CD,BD->CB", rows_CD, gathered_BD, precision=lax.Precision.HIGHEST)
