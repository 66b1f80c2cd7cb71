"""Parameter counts."""

import math
from typing import Any

import jax


def parameter_counts(state: dict[str, Any]) -> dict[str, int]:
    """Parameters of a train state: one count for each tower and head, and one for the objective's learned scalars."""
    return tower_counts(state["params"])


def tower_counts(params: dict[str, Any]) -> dict[str, int]:
    """The same for {"towers", "scalars"}."""
    towers, scalars = params["towers"], params["scalars"]
    return {name: size_of(tree) for name, tree in towers.items()} | {"scalars": size_of(scalars)}


def size_of(tree: Any) -> int:
    """Number of elements in all arrays of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
