"""Training objectives by name. A new one is a file here, a line in `OBJECTIVES`, a config and a test.

A line in `TERMS` offers one of its terms to every objective, through the option `extra`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives import alip, clip, cyclip, distill, nclip, rank, siglip, softclip
from rankclip_jax.objectives.mix import TermRecipe, add_terms
from rankclip_jax.objectives.objective import Objective, RunInfo

__all__ = ["OBJECTIVES", "TERMS", "Objective", "Recipe", "RunInfo", "build_objective", "objective_config"]


class Recipe(NamedTuple):
    """How an objective is built, and its options with their defaults."""

    build: Callable[[ConfigDict, RunInfo], Objective]
    defaults: Mapping[str, Any]


OBJECTIVES = {
    "alip": Recipe(alip.build, alip.DEFAULTS),
    "clip": Recipe(clip.build, clip.DEFAULTS),
    "cyclip": Recipe(cyclip.build, cyclip.DEFAULTS),
    "distill": Recipe(distill.build, distill.DEFAULTS),
    "nclip": Recipe(nclip.build_nclip, nclip.DEFAULTS),
    "rankclip": Recipe(rank.build, rank.DEFAULTS),
    "rankclip_released": Recipe(rank.build, rank.RELEASED_DEFAULTS),
    "siglip": Recipe(siglip.build, siglip.DEFAULTS),
    "softclip": Recipe(softclip.build, softclip.DEFAULTS),
    "xclip": Recipe(nclip.build_xclip, nclip.XCLIP_DEFAULTS),
}

# Terms for `extra`: how each is made from the options of its objective, and the defaults of those options.
TERMS = {
    "alip_caption": TermRecipe(lambda options, _: alip.alip_term("alip_caption", options), alip.DEFAULTS),
    "alip_text": TermRecipe(lambda options, _: alip.alip_term("alip_text", options), alip.DEFAULTS),
    "aligned": TermRecipe(functools.partial(distill.distill_term, "aligned"), distill.DEFAULTS),
    "augmented": TermRecipe(lambda options, _: cyclip.TERMS["augmented"], cyclip.DEFAULTS),
    "clip": TermRecipe(lambda options, _: clip.CLIP, clip.DEFAULTS),
    "cyclip_cross": TermRecipe(lambda options, _: cyclip.TERMS["cyclip_cross"], cyclip.DEFAULTS),
    "cyclip_in_modal": TermRecipe(lambda options, _: cyclip.TERMS["cyclip_in_modal"], cyclip.DEFAULTS),
    "distilled": TermRecipe(functools.partial(distill.distill_term, "distilled"), distill.DEFAULTS),
    "nclip_cross_entropy": TermRecipe(lambda options, _: nclip.TERMS["nclip_cross_entropy"], nclip.DEFAULTS),
    "nclip_sharpness": TermRecipe(lambda options, _: nclip.TERMS["nclip_sharpness"], nclip.DEFAULTS),
    "nclip_smoothness": TermRecipe(lambda options, _: nclip.TERMS["nclip_smoothness"], nclip.DEFAULTS),
    "rank_cross": TermRecipe(lambda options, _: rank.cross_term(options), rank.DEFAULTS),
    "rank_in_modal": TermRecipe(lambda options, _: rank.in_modal_term(options), rank.DEFAULTS),
    "siglip": TermRecipe(lambda options, _: siglip.siglip_term(options), siglip.DEFAULTS),
    "soft_negatives": TermRecipe(lambda options, _: softclip.soft_term("soft_negatives", options), softclip.DEFAULTS),
    "soft_targets": TermRecipe(lambda options, _: softclip.soft_term("soft_targets", options), softclip.DEFAULTS),
}


def objective_config(name: str) -> ConfigDict:
    """`config.objective` for the objective of this name: its own options, and `extra` and `block_rows`.

    Raises:
      UserError: no such objective; the message lists those there are.
    """
    recipe = lookup(OBJECTIVES, name, "objective")
    # block_rows: rows of the loss computed at once; 0 chooses by memory.
    # extra: terms of `TERMS` added to the loss, with weights that may move: "0.25 rank_cross:ramp + 0.1 siglip".
    return ConfigDict({"name": name, "block_rows": 0, "extra": "", **recipe.defaults})


def build_objective(config: ConfigDict, length: RunInfo) -> Objective:
    """Build the objective that `config.name` names, from its own options in `config`.

    Raises:
      UserError: an unknown objective, an option out of range, one that is missing because `config` was
        written for another objective, or an `extra` that cannot be added.
    """
    recipe = lookup(OBJECTIVES, config.name, "objective")
    missing = [option for option in recipe.defaults if option not in config]
    if missing:
        raise UserError(
            f"config.objective is written for another objective: {config.name!r} also needs {', '.join(missing)}. "
            f"Set it in the config file by objective_config({config.name!r}), as configs/emoji.py:{config.name} does."
        )
    extra = config.extra if "extra" in config else ""
    return add_terms(recipe.build(config, length), extra, TERMS, length)
