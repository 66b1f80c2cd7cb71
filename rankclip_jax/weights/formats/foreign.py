"""What every adapter of a foreign format gives, and how it becomes a model of ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.inference.model import Model
from rankclip_jax.models.presets import OF_ANY_IMAGE, OF_ANY_TEXT, OF_TEXT, OF_VIT, get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.trees import leaves_with_path, name_of
from rankclip_jax.weights.formats.mapping import Rule, to_ours

# Every learned scalar that an objective may have.
SCALARS = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class Foreign:
    """A model in another library's format, read but not yet converted.

    Attributes:
      format: name of the format, for people.
      where: the file or folder, for messages.
      config: `config.model` of the same architecture.
      rules: the table of its tensors.
      tensors: its state dict.
      tokenizer: its tokenizer.
      ignored: names of tensors that carry no weights.
      notes: what the user should know, a line each.
    """

    format: str
    where: str
    config: ConfigDict
    rules: Sequence[Rule]
    tensors: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    ignored: Callable[[str], bool]
    notes: tuple[str, ...] = field(default=())


def convert(foreign: Foreign) -> Model:
    """The model as ours, every tensor of it used.

    Raises:
      UserError: a tensor that is missing, left over or of another shape, or sizes that do not go together.
    """
    scalars = [path.partition("/")[2] for rule in foreign.rules for path in rule.ours if path.startswith("scalars/")]
    shapes = array_shapes(foreign.config, foreign.tokenizer) | {f"scalars/{name}": () for name in scalars}
    arrays = to_ours(foreign.rules, foreign.tensors, shapes, foreign.where, foreign.ignored)
    tree = nested(arrays)
    return Model(
        config=foreign.config,
        weights=Weights(
            params={"towers": tree["towers"], "scalars": tree["scalars"]},
            model_state={"batch_stats": tree["batch_stats"]} if "batch_stats" in tree else {},
        ),
        tokenizer=foreign.tokenizer,
        step=0,
        origin=foreign.where,
        format=foreign.format,
        notes=foreign.notes,
    )


def array_shapes(config: ConfigDict, tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """Shape of every array of the towers that `config` describes, by path, without their distribution heads."""
    towers = build_towers(config, tokenizer.vocab_size, tokenizer.eot_id)
    images = jnp.zeros((1, towers.image.image_size, towers.image.image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, towers.text.context_length), jnp.int32)
    made = dict(jax.eval_shape(towers.init, jax.random.key(0), images, tokens))
    tree = {"towers": made.pop("params"), **made}
    return {name_of(path): leaf.shape for path, leaf in leaves_with_path(tree)}


def arrays_by_path(model: Model) -> dict[str, np.ndarray]:
    """Every array of a model by the paths that tables use; distribution heads are left out."""
    params, model_state = model.weights
    towers = {side: params["towers"][side] for side in ("image", "text")}
    tree = {"towers": towers, "scalars": params["scalars"], **model_state}
    return {name_of(path): np.asarray(leaf) for path, leaf in leaves_with_path(tree)}


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of dicts from paths joined by "/"."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        *parents, name = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


def model_config(name: str, embed_dim: int, image: Mapping, text: Mapping) -> ConfigDict:
    """`config.model` of foreign weights: a preset's fields, with these towers."""
    config = get_preset("ViT-B/32").unlock()
    image = OF_ANY_IMAGE | (OF_VIT if image["tower"] == "vit" else {}) | dict(image)
    text = OF_ANY_TEXT | OF_TEXT | dict(text)
    config.update(name=name, embed_dim=embed_dim)
    config.image, config.text = ConfigDict(image), ConfigDict(text)
    return config


def require(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str, what: str) -> None:
    """Refuse settings of a foreign config that change what is computed to something we do not have.

    Args:
      found: the foreign config.
      wanted: the values that we can take, by key; a key that is absent has that value.
      where: the file.
      what: its format, for the message.
    """
    for key, value in wanted.items():
        if found.get(key, value) != value:
            raise UserError(
                f"{where}: {key}={found[key]!r} in {what} is of a kind that we have no tower for (only {value!r})."
            )
