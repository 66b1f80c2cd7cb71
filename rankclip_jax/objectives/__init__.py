"""Training objectives by name. A new one is a file here, a line in this dict, a config and a test."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives import clip, cyclip, distill, rank, siglip, softclip
from rankclip_jax.objectives.objective import Objective, RunLength

__all__ = ["OBJECTIVES", "Objective", "Recipe", "RunLength", "build_objective", "objective_config"]


class Recipe(NamedTuple):
    """How an objective is built, and its options with their defaults."""

    build: Callable[[ConfigDict, RunLength], Objective]
    defaults: Mapping[str, Any]


OBJECTIVES = {
    "clip": Recipe(clip.build, clip.DEFAULTS),
    "cyclip": Recipe(cyclip.build, cyclip.DEFAULTS),
    "distill": Recipe(distill.build, distill.DEFAULTS),
    "rankclip": Recipe(rank.build, rank.DEFAULTS),
    "siglip": Recipe(siglip.build, siglip.DEFAULTS),
    "softclip": Recipe(softclip.build, softclip.DEFAULTS),
}


def objective_config(name: str) -> ConfigDict:
    """`config.objective` for the objective of this name: its own options and the shared `block_rows`.

    Raises:
      UserError: no such objective; the message lists those there are.
    """
    recipe = lookup(OBJECTIVES, name, "objective")
    # block_rows: rows of the loss computed at once; 0 chooses by memory.
    return ConfigDict({"name": name, "block_rows": 0, **recipe.defaults})


def build_objective(config: ConfigDict, length: RunLength) -> Objective:
    """Build the objective that `config.name` names, from its own options in `config`.

    Raises:
      UserError: an unknown objective, an option out of range, or one that is missing because `config` was
        written for another objective.
    """
    recipe = lookup(OBJECTIVES, config.name, "objective")
    missing = [option for option in recipe.defaults if option not in config]
    if missing:
        raise UserError(
            f"config.objective is written for another objective: {config.name!r} also needs {', '.join(missing)}. "
            f"Set it in the config file by objective_config({config.name!r}), as configs/emoji.py:{config.name} does."
        )
    return recipe.build(config, length)
