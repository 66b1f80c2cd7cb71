"""Parameter counts."""

import math
from typing import Any

import jax


def parameter_counts(state: dict[str, Any]) -> dict[str, int]:
    """Parameters of a train state: the counts of each tower, of each head, and of the objective's learned scalars."""
    return tower_counts(state["params"])


def tower_counts(params: dict[str, Any]) -> dict[str, int]:
    """`parameter_counts` of a state's params, {"towers", "scalars"}."""
    return {name: size_of(tree) for name, tree in (params["towers"] | {"scalars": params["scalars"]}).items()}


def size_of(tree: Any) -> int:
    """Number of elements in all arrays of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
