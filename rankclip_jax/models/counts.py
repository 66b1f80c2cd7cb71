"""Parameter counts."""

import math

import jax


def parameter_counts(state) -> dict[str, int]:
    """Parameters of each tower, and of the objective's learned scalars."""
    return tower_counts(state["params"])


def tower_counts(params) -> dict[str, int]:
    """The same of parameters alone."""
    towers, scalars = params["towers"], params["scalars"]
    return {name: size_of(tree) for name, tree in towers.items()} | {"scalars": size_of(scalars)}


def size_of(tree) -> int:
    """Number of elements in all arrays of `tree`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
