"""Paths of leaves in nested dicts: configs, and parameters in JAX's sense of a tree."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

Path = tuple[str, ...]


def flatten(node: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value of a nested config, such as ("data.root", "")."""
    for key, value in node.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def path_of(keys: Any) -> Path:
    """Names of the keys that lead to a leaf, from what `jax.tree_util` passes: ("towers", "image", "kernel")."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """Return (path, leaf) for every leaf, in the order of `jax.tree.leaves`."""
    return [(path_of(keys), leaf) for keys, leaf in jax.tree.leaves_with_path(tree)]


def name_of(path: Path) -> str:
    """One string for a path, as regular expressions and messages use it: "towers/image/kernel"."""
    return "/".join(path)
