"""Paths of leaves in nested dicts: configs and pytrees of parameters."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

LeafPath = tuple[str, ...]


def flatten(node: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value of a nested config, such as ("data.root", "")."""
    for key, value in node.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def path_of(keys: Sequence[Any]) -> LeafPath:
    """Return the names in a key path of `jax.tree_util`: ("towers", "0") for (DictKey("towers"), SequenceKey(0))."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def leaves_with_path(tree: Any) -> list[tuple[LeafPath, Any]]:
    """Return (path, leaf) for every leaf, in the order of `jax.tree.leaves`."""
    return [(path_of(keys), leaf) for keys, leaf in jax.tree.leaves_with_path(tree)]


def name_of(path: Sequence[str]) -> str:
    """Return a path as one string, for regular expressions and messages: "towers/image/kernel"."""
    return "/".join(path)
