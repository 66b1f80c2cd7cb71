"""Training objectives: `registry` lists them by name, `objective` defines what an objective is."""

from rankclip_jax.objectives.listmle import listmle_exact
from rankclip_jax.objectives.objective import Objective, RunInfo
from rankclip_jax.objectives.registry import OBJECTIVES, TERMS, Recipe, build_objective, objective_config

__all__ = [
    "OBJECTIVES",
    "TERMS",
    "Objective",
    "Recipe",
    "RunInfo",
    "build_objective",
    "listmle_exact",
    "objective_config",
]
