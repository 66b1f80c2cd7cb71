"""Terms added to an objective by its option `extra`, such as "0.25 rank_cross:ramp + 0.1 siglip"."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.objective import Objective, RunInfo, Term
from rankclip_jax.schedules import WEIGHT_SCHEDULES

_PART = re.compile(r"\s*([0-9.]+(?:e-?[0-9]+)?)?\s*([a-z_]\w*)(?:\s*:\s*(\w+))?\s*", re.IGNORECASE)


class TermRecipe(NamedTuple):
    """How a term is made for `extra`, and the options it is made with: those of its own objective."""

    make: Callable[[ConfigDict, RunInfo], Term]
    defaults: Mapping[str, Any]


class Weight(NamedTuple):
    """factor times the schedule of this name."""

    factor: float
    schedule: str


def add_terms(objective: Objective, extra: str, known: Mapping[str, TermRecipe], length: RunInfo) -> Objective:
    """L = objective + sum of weight * schedule * term.

    A term is as its own objective has it by default. A learned scalar that the objective has already is shared
    with it, and keeps the objective's start and range.

    Args:
      objective: what to add to.
      extra: "[WEIGHT] NAME[:SCHEDULE] + ...", schedules being those of `schedules.WEIGHT_SCHEDULES`; no weight
        means 1, no schedule "constant"; weight 0 drops the term, "" adds nothing.
      known: terms by name.
      length: how long the run is.

    Raises:
      UserError: text that is no such sum, an unknown term or schedule, a term that is there already.
    """
    weights = {name: weight for name, weight in _read(extra).items() if lookup(known, name, "term") and weight.factor}
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
        made = known[name].make(ConfigDict(dict(known[name].defaults)), length)
        shared = {key: scalar for term in terms.values() for key, scalar in term.scalars.items()}
        scalars = {key: shared.get(key, scalar) for key, scalar in made.scalars.items()}
        terms[name] = dataclasses.replace(made, scalars=scalars)

    def all_weights(step: jax.Array) -> dict[str, jax.Array]:
        added = {name: w.factor * WEIGHT_SCHEDULES[w.schedule](step, length.total_steps) for name, w in weights.items()}
        return objective.weights(step) | added

    equation = f"{objective.equation}, plus {' + '.join(_words(name, weight) for name, weight in weights.items())}"
    return dataclasses.replace(objective, equation=equation, terms=terms, weights=all_weights)


def _words(name: str, weight: Weight) -> str:
    factor = "" if weight.factor == 1 else f"{weight.factor:g} "
    return f"{factor}{name}" if weight.schedule == "constant" else f"{factor}{weight.schedule}(t) {name}"


def _read(extra: str) -> dict[str, Weight]:
    """'0.25 a:linear_up + b' to {"a": (0.25, "linear_up"), "b": (1.0, "constant")}."""
    weights: dict[str, Weight] = {}
    for part in extra.split("+") if extra.strip() else ():
        match = _PART.fullmatch(part)
        try:
            factor = float((match and match[1]) or 1.0)
        except ValueError:
            factor = math.nan
        if not match or not math.isfinite(factor):
            raise UserError(
                f"objective.extra={extra!r}: {part.strip()!r} is no weighted term; write weights and names, "
                "as in '0.25 rank_cross:ramp + 0.1 clip'."
            )
        if match[2] in weights:
            raise UserError(f"objective.extra={extra!r} names {match[2]!r} twice; add the weights up.")
        schedule = match[3] or "constant"
        lookup(WEIGHT_SCHEDULES, schedule, f"schedule of {match[2]!r} in objective.extra")
        weights[match[2]] = Weight(factor, schedule)
    return weights
