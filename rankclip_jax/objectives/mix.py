"""Terms added to an objective by its option `extra`, such as "0.25 rank_cross + 0.1 siglip"."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.objective import Objective, Term

_PART = re.compile(r"\s*([0-9.]+(?:e-?[0-9]+)?)?\s*([a-z_]\w*)\s*", re.IGNORECASE)


class TermRecipe(NamedTuple):
    """How a term is made for `extra`, and the options it is made with: those of its own objective."""

    make: Callable[[ConfigDict], Term]
    defaults: Mapping[str, Any]


def add_terms(objective: Objective, extra: str, known: Mapping[str, TermRecipe]) -> Objective:
    """L = objective + sum of weight * term, each weight constant.

    A term is as its own objective has it by default. A learned scalar that the objective has already is shared
    with it, and keeps the objective's start and range.

    Args:
      objective: what to add to.
      extra: "[WEIGHT] NAME + [WEIGHT] NAME ..."; no weight means 1, weight 0 drops the term, "" adds nothing.
      known: terms by name.

    Raises:
      UserError: text that is no such sum, an unknown term, a term that is there already.
    """
    weights = {name: weight for name, weight in _read(extra).items() if lookup(known, name, "term") and weight}
    for name in weights:
        if name in objective.terms:
            raise UserError(
                f"objective.extra={extra!r} adds {name!r}, which is part of objective {objective.name!r} already: "
                "leave it out; the objective's own options weigh it."
            )
    if not weights:
        return objective
    terms = dict(objective.terms)
    for name in weights:
        made = known[name].make(ConfigDict(dict(known[name].defaults)))
        shared = {key: scalar for term in terms.values() for key, scalar in term.scalars.items()}
        scalars = {key: shared.get(key, scalar) for key, scalar in made.scalars.items()}
        terms[name] = dataclasses.replace(made, scalars=scalars)

    def all_weights(step: jax.Array) -> dict[str, jax.Array]:
        return objective.weights(step) | {name: jnp.float32(weight) for name, weight in weights.items()}

    added = " + ".join(f"{weight:g} {name}" if weight != 1 else name for name, weight in weights.items())
    return dataclasses.replace(
        objective, equation=f"{objective.equation}, plus {added}", terms=terms, weights=all_weights
    )


def _read(extra: str) -> dict[str, float]:
    """'0.25 a + b' to {"a": 0.25, "b": 1.0}."""
    weights: dict[str, float] = {}
    for part in extra.split("+") if extra.strip() else ():
        match = _PART.fullmatch(part)
        try:
            weight = float((match and match[1]) or 1.0)
        except ValueError:
            weight = math.nan
        if not match or not math.isfinite(weight):
            raise UserError(
                f"objective.extra={extra!r}: {part.strip()!r} is no weighted term; write weights and names, "
                "as in '0.25 rank_cross + 0.1 clip'."
            )
        if match[2] in weights:
            raise UserError(f"objective.extra={extra!r} names {match[2]!r} twice; add the weights up.")
        weights[match[2]] = weight
    return weights
