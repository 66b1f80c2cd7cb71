"""Training objectives by name. A new one is a file here, a line in this dict, a config and a test."""

from rankclip_jax.errors import lookup
from rankclip_jax.objectives import clip, rank
from rankclip_jax.objectives.objective import Objective, RunLength

OBJECTIVES = {
    "clip": clip.build,
    "rankclip": rank.build,
}


def build_objective(config, length: RunLength) -> Objective:
    """Build the objective that `config.name` names, from its own options in `config`."""
    return lookup(OBJECTIVES, config.name, "objective")(config, length)
