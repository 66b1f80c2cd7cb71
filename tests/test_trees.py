"""Paths of leaves: one spelling for dicts, sequences, namedtuples and configs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rankclip_jax.trees import flatten, leaves_with_path, name_of, path_of


class Pair(NamedTuple):
    first: int
    second: dict


TREE = {"towers": {"image": {"kernel": 1}, "list": [2, 3]}, "opt": Pair(4, {"mu": 5}), 7: 6}


def test_names_of_leaves():
    names = {name_of(path): leaf for path, leaf in leaves_with_path({k: v for k, v in TREE.items() if k != 7})}
    assert names == {
        "opt/first": 4,
        "opt/second/mu": 5,
        "towers/image/kernel": 1,
        "towers/list/0": 2,
        "towers/list/1": 3,
    }
    assert leaves_with_path({7: 6}) == [(("7",), 6)]
    assert leaves_with_path(3) == [((), 3)] and name_of(()) == ""


def test_the_order_is_that_of_jax():
    state = optax.adamw(1e-3).init({"b": jnp.ones(2), "a": {"c": jnp.ones(3)}})
    found = leaves_with_path(state)
    assert len(found) > 3
    assert all(a is b for (_, a), b in zip(found, jax.tree.leaves(state), strict=True))


def test_path_of_takes_what_jax_passes():
    tree = {"a": {"b": 1}, "c": [2]}
    named = jax.tree_util.tree_map_with_path(lambda keys, _: name_of(path_of(keys)), tree)
    assert named == {"a": {"b": "a/b"}, "c": ["c/0"]}


def test_flatten_gives_dotted_keys_of_configs_and_dicts():
    config = ConfigDict({"data": {"root": "", "augment": "none"}, "seed": 1, "empty": {}})
    assert dict(flatten(config)) == {"data.root": "", "data.augment": "none", "seed": 1}
    assert dict(flatten(config.to_dict())) == dict(flatten(config))
    assert dict(flatten({"sizes": (1, 2)}, "model.")) == {"model.sizes": (1, 2)}
