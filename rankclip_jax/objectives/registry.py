"""Objectives and their terms by name. A new objective is a file here, a line in `OBJECTIVES`, a config and a test."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives import alip, clip, cyclip, distill, nclip, rank, siglip, softclip, softclip_labels
from rankclip_jax.objectives.mix import TermRecipe, add_terms
from rankclip_jax.objectives.objective import MakeTerm, Objective, RunInfo
from rankclip_jax.objectives.options import check_block_rows


class Recipe(NamedTuple):
    """How to build an objective."""

    build: Callable[[ConfigDict, RunInfo], Objective]
    defaults: Mapping[str, Any]  # its options with their default values
    terms: Mapping[str, MakeTerm] = {}  # the terms that it offers to other objectives through the option `extra`


# Three methods are reconstructions from the abstracts of their papers: SoftCLIP ("softclip"), progressive
# self-distillation ("distill"), and nCLIP with xCLIP ("nclip", "xclip"). docs/objectives.md says what is unknown.
OBJECTIVES = {
    "alip": Recipe(alip.build, alip.DEFAULTS, alip.TERMS),
    "clip": Recipe(clip.build, clip.DEFAULTS, clip.TERMS),
    "cyclip": Recipe(cyclip.build, cyclip.DEFAULTS, cyclip.TERMS),
    "distill": Recipe(distill.build, distill.DEFAULTS, distill.TERMS),
    "nclip": Recipe(nclip.build_nclip, nclip.DEFAULTS, nclip.TERMS),
    "rankclip": Recipe(rank.build, rank.DEFAULTS, rank.TERMS),
    "rankclip_released": Recipe(rank.build, rank.RELEASED_DEFAULTS),
    "siglip": Recipe(siglip.build, siglip.DEFAULTS, siglip.TERMS),
    "softclip": Recipe(softclip.build, softclip.DEFAULTS, softclip.TERMS),
    "softclip_labels": Recipe(softclip_labels.build, softclip_labels.DEFAULTS, softclip_labels.TERMS),
    "softclip_mixed": Recipe(softclip.build, softclip.MIXED_DEFAULTS),
    "xclip": Recipe(nclip.build_xclip, nclip.XCLIP_DEFAULTS),
}

# Terms for the option `extra`, made with the default options of the objective that offers them.
TERMS = {name: TermRecipe(make, x.defaults) for x in OBJECTIVES.values() for name, make in x.terms.items()}

# Options of every objective.
COMMON_DEFAULTS = {
    "block_rows": 0,  # rows of the loss computed at once; 0 chooses by memory
    "extra": "",  # terms to add, with their weights: "0.25 rank_cross:ramp + 0.1 siglip"
}


def objective_config(name: str) -> ConfigDict:
    """`config.objective` with all options of the objective `name` at their defaults.

    Raises:
      UserError: an unknown objective; the message lists the known ones.
    """
    return ConfigDict({"name": name, **COMMON_DEFAULTS, **lookup(OBJECTIVES, name, "objective").defaults})


def build_objective(config: ConfigDict, run: RunInfo) -> Objective:
    """Build the objective `config.name` from its options in `config`.

    Raises:
      UserError: an unknown objective, an option out of range, an option missing because `config` was written for
        another objective, or an `extra` that cannot be added.
    """
    recipe = lookup(OBJECTIVES, config.name, "objective")
    missing = [option for option in (COMMON_DEFAULTS | recipe.defaults) if option not in config]
    if missing:
        raise UserError(
            f"config.objective is written for another objective: {config.name!r} also needs {', '.join(missing)}. "
            f"Set it in the config file by objective_config({config.name!r}), as configs/emoji.py:{config.name} does."
        )
    check_block_rows(config.block_rows)
    return add_terms(recipe.build(config, run), config.extra, TERMS, run)
