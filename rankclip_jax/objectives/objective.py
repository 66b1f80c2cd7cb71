"""What an objective is: a weighted sum of terms over rows of the batch, ignorant of devices.

Letters: B global rows, C rows of a block, D embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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
    """How long a run is, for weights that change over training, and its seed, for what is drawn."""

    total_steps: int
    steps_per_epoch: int
    seed: int = 0


class RowBlock:
    """What a term sees of the batch while one block of C rows is at hand.

    Everything in it may carry gradient but `state` and `step`.

    Attributes:
      rows: arrays of the block, [C, ...].
      gathered: arrays of the whole batch, [B, ...]; without those that a term keeps `local`.
      scalars: learned scalars.
      sums: what the term's `sums` gave, summed over the whole batch.
      state: the term's state, already updated with this batch.
      index_C: which global rows these are.
      batch: B.
      step: int32 scalar, updates done so far.
    """

    def __init__(
        self, rows: Arrays, gathered: Arrays, scalars: Arrays, index_C: jax.Array, batch: int, step: jax.Array
    ):
        self.rows, self.gathered, self.scalars = rows, gathered, scalars
        self.index_C, self.batch, self.step = index_C, batch, step
        self.sums: Any = None
        self.state: Any = None
        self._products: dict[tuple[str, str], jax.Array] = {}

    def of(self, sums: Any, state: Any) -> "RowBlock":
        """The same block for another term; products already made are shared."""
        block = RowBlock(self.rows, self.gathered, self.scalars, self.index_C, self.batch, self.step)
        block.sums, block.state, block._products = sums, state, self._products
        return block

    def cosine(self, rows: str, gathered: str) -> jax.Array:
        """Cosines [C, B] of the block's `rows` and gathered's `gathered`, made once for all terms."""
        if (rows, gathered) not in self._products:
            self._products[rows, gathered] = cosine(self.rows[rows], self.gathered[gathered])
        return self._products[rows, gathered]

    def matching(self, a: str, b: str) -> jax.Array:
        """Cosine [C] of each row's own pair."""
        return jnp.sum(self.rows[a] * self.rows[b], axis=1)

    @property
    def own(self) -> jax.Array:
        """Whether a column is the row's own pair: the diagonal, bool [C, B]."""
        return jnp.arange(self.batch) == self.index_C[:, None]

    @property
    def scale(self) -> jax.Array:
        """exp(logit_scale), which multiplies cosines."""
        return jnp.exp(self.scalars["logit_scale"])


@dataclass(frozen=True)
class Term:
    """One summand: (1/B) sum over rows of `row_loss` + `from_sums`; either may be absent.

    Attributes:
      inputs: names of the [B, ...] arrays it reads.
      row_loss: block -> scalar, the sum over the C rows of the block.
      scalars: learned scalars by name; terms that name the same one share it, and must agree on it.
      local: those of `inputs` of which it reads only its own rows; they are never gathered.
      sums: (rows, scalars, B) -> tree, sums over any number of rows of what all rows need: small arrays
        only. `block.sums` and `from_sums` get their total over the batch. Terms with the same function share
        one computation.
      from_sums: (sums, scalars, B) -> scalar: what follows from the sums alone, at the scale of a mean.
      state: initial values of running statistics, kept in the checkpoint; they carry no gradient.
      next_state: (state, sums, B) -> state, before the rows see it.
    """

    inputs: tuple[str, ...]
    row_loss: Callable[[RowBlock], jax.Array] | None = None
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    local: tuple[str, ...] = ()
    sums: Callable[[Arrays, Arrays, int], Any] | None = None
    from_sums: Callable[[Any, Arrays, int], jax.Array] | None = None
    state: Mapping[str, float] = field(default_factory=dict)
    next_state: Callable[[Any, Any, int], Any] | None = None


@dataclass(frozen=True)
class Objective:
    """loss = sum over terms of weight(step) * term.

    Attributes:
      name: registry name.
      equation: the objective with its weights, for the start-up card and the report.
      terms: by name, in the order to show.
      weights: step (int32 scalar) -> float32 weight of each term.
    """

    name: str
    equation: str
    terms: Mapping[str, Term]
    weights: Callable[[jax.Array], dict[str, jax.Array]]

    def __post_init__(self):
        for term, scalar, found in ((t, s, found) for t, x in self.terms.items() for s, found in x.scalars.items()):
            if found != self.scalars[scalar]:
                raise UserError(
                    f"objective {self.name!r}: term {term!r} has another start or range for the learned scalar "
                    f"{scalar!r} than a term beside it: {found} and {self.scalars[scalar]}. Do not mix the two."
                )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that any term reads."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.inputs))

    @property
    def gathered(self) -> tuple[str, ...]:
        """Those of `inputs` that some term reads of the whole batch."""
        read = {name for term in self.terms.values() for name in term.inputs if name not in term.local}
        return tuple(name for name in self.inputs if name in read)

    @property
    def scalars(self) -> dict[str, Scalar]:
        """Learned scalars of all terms."""
        return {name: scalar for term in self.terms.values() for name, scalar in term.scalars.items()}

    def initial_state(self) -> dict[str, dict[str, jax.Array]]:
        """State of the terms that have one, float32 scalars by term and name."""
        stateful = {name: term.state for name, term in self.terms.items() if term.state}
        return {name: {key: jnp.float32(value) for key, value in state.items()} for name, state in stateful.items()}


def cosine(rows_CD: jax.Array, gathered_BD: jax.Array) -> jax.Array:
    """Cosines [C, B] of unit-norm embeddings, in full precision.

    The order of a list depends on the low bits, and TPUs and recent GPUs would otherwise multiply
    in bf16 or TF32. Equal columns must give equal bits, or duplicates would not tie. XLA's CPU
    product of a matrix with a single row breaks that, so a single row is computed twice.
    """
    if rows_CD.shape[0] == 1:
        return cosine(jnp.concatenate([rows_CD, rows_CD]), gathered_BD)[:1]
    return jnp.einsum("CD,BD->CB", rows_CD, gathered_BD, precision=lax.Precision.HIGHEST)
