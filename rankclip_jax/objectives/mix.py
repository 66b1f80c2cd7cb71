"""Terms added to an objective by its option `extra`, such as "0.25 rank_cross:ramp + 0.1 siglip"."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives.objective import MakeTerm, Objective, RunInfo, Term
from rankclip_jax.schedules import WEIGHT_SCHEDULES

_PART = re.compile(r"\s*([0-9.]+(?:e-?[0-9]+)?)?\s*([a-z_]\w*)(?:\s*:\s*(\w+))?\s*", re.IGNORECASE)


class TermRecipe(NamedTuple):
    """How to make a term for `extra`."""

    make: MakeTerm
    defaults: Mapping[str, Any]  # default options of the term's own objective


class Weight(NamedTuple):
    """A constant factor times the schedule of this name."""

    factor: float
    schedule: str


def add_terms(objective: Objective, extra: str, known: Mapping[str, TermRecipe], run: RunInfo) -> Objective:
    """Return the objective plus the weighted terms of `extra`.

    An added term has the default options of its own objective. If the objective already has a learned scalar of the
    same name, both share it, with the initial value and range of the objective.

    Args:
      extra: "[WEIGHT] NAME[:SCHEDULE] + ...", with the schedules of `schedules.WEIGHT_SCHEDULES`. The default weight is
        1, the default schedule "constant". Weight 0 drops the term; "" adds nothing.
      known: terms by name.

    Raises:
      UserError: `extra` is not such a sum, names an unknown term or schedule, or a term of the objective itself.
    """
    weights = {name: weight for name, weight in _read(extra).items() if lookup(known, name, "term") and weight.factor}
    if not weights:
        return objective
    for name in weights:
        if name in objective.terms:
            raise UserError(
                f"objective.extra={extra!r} adds {name!r}, which is part of objective {objective.name!r} already: "
                "leave it out, and use the options of the objective to weight it."
            )
    terms = dict(objective.terms)
    for name in weights:
        terms[name] = _sharing_scalars(known[name].make(ConfigDict(dict(known[name].defaults)), run), terms)
    schedules = {name: WEIGHT_SCHEDULES[weight.schedule](run.total_steps) for name, weight in weights.items()}

    def all_weights(step: jax.Array) -> dict[str, jax.Array]:
        added = {name: jnp.float32(weights[name].factor * schedule(step)) for name, schedule in schedules.items()}
        return objective.weights(step) | added

    equation = f"{objective.equation}, plus {' + '.join(_words(name, weight) for name, weight in weights.items())}"
    return dataclasses.replace(objective, equation=equation, terms=terms, weights=all_weights)


def _sharing_scalars(added: Term, terms: Mapping[str, Term]) -> Term:
    """`added` with the learned scalars of `terms` where names are equal."""
    shared = {key: scalar for term in terms.values() for key, scalar in term.scalars.items()}
    return dataclasses.replace(added, scalars={key: shared.get(key, own) for key, own in added.scalars.items()})


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
                f"objective.extra={extra!r}: {part.strip()!r} is not a weighted term; write weights and names, "
                "as in '0.25 rank_cross:ramp + 0.1 clip'."
            )
        if match[2] in weights:
            raise UserError(f"objective.extra={extra!r} names {match[2]!r} twice; add the two weights.")
        schedule = match[3] or "constant"
        lookup(WEIGHT_SCHEDULES, schedule, f"schedule of {match[2]!r} in objective.extra")
        weights[match[2]] = Weight(factor, schedule)
    return weights
