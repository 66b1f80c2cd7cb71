"""A model read from a foreign format, and its conversion to a `Model` of this package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.image_size import height_width_of
from rankclip_jax.inference.model import Model
from rankclip_jax.models.presets import CLIP_IMAGE, CLIP_TEXT, IMAGE_DEFAULTS, TEXT_DEFAULTS, get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.trees import leaves_with_path, name_of
from rankclip_jax.weights.formats.mapping import Rule, to_ours


@dataclass(frozen=True)
class Foreign:
    """A model in another library's format, read but not yet converted.

    Attributes:
      format, where: name of the format, and the file or folder, for messages.
      config: `config.model` of the same architecture.
      rules: the table that maps its tensors to ours.
      tensors: its state dict.
      ignored: (name) -> whether a tensor is not a weight.
    """

    format: str
    where: str
    config: ConfigDict
    rules: Sequence[Rule]
    tensors: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    ignored: Callable[[str], bool]


def convert(foreign: Foreign) -> Model:
    """Convert a foreign model. Every tensor must be used.

    Raises:
      UserError: a tensor is missing, unused or has another shape, or sizes contradict each other.
    """
    scalars = [path.partition("/")[2] for rule in foreign.rules for path in rule.ours if path.startswith("scalars/")]
    shapes = array_shapes(foreign.config, foreign.tokenizer) | {f"scalars/{name}": () for name in scalars}
    arrays = to_ours(foreign.rules, foreign.tensors, shapes, foreign.where, foreign.ignored)
    tree = unflatten_dict(arrays, sep="/")
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
    )


def array_shapes(config: ConfigDict, tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """Shape of every array of the towers in `config`, by path, without distribution heads."""
    towers = build_towers(config, tokenizer.vocab_size, tokenizer.eot_id)
    images = jnp.zeros((1, *height_width_of(towers.image.image_size), 3), jnp.uint8)
    tokens = jnp.zeros((1, towers.text.context_length), jnp.int32)
    variables = dict(jax.eval_shape(towers.init, jax.random.key(0), images, tokens))
    tree = {"towers": variables.pop("params"), **variables}
    return {name_of(path): leaf.shape for path, leaf in leaves_with_path(tree)}


def arrays_by_path(model: Model) -> dict[str, np.ndarray]:
    """Every array of a model by path, without distribution heads."""
    params, model_state = model.weights
    towers = {side: params["towers"][side] for side in ("image", "text")}
    tree = {"towers": towers, "scalars": params["scalars"], **model_state}
    return {name_of(path): np.asarray(leaf) for path, leaf in leaves_with_path(tree)}


def model_config(name: str, embed_dim: int, image: Mapping, text: Mapping) -> ConfigDict:
    """`config.model` of foreign weights: every field of a preset, with these towers."""
    config = get_preset("ViT-B/32").unlock()
    image = IMAGE_DEFAULTS | (CLIP_IMAGE if image["tower"] == "vit" else {}) | dict(image)
    text = TEXT_DEFAULTS | CLIP_TEXT | dict(text)
    config.update(name=name, embed_dim=embed_dim)
    config.image, config.text = ConfigDict(image), ConfigDict(text)
    return config


def require(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str, what: str) -> None:
    """Reject settings of a foreign config that our towers do not support.

    Args:
      found: the foreign config.
      wanted: the supported value of each key. A key that `found` lacks has this value.
      where, what: the file and its section, for the message.

    Raises:
      UserError: a key has another value.
    """
    for key, value in wanted.items():
        if found.get(key, value) != value:
            raise UserError(f"{where}: {key}={found[key]!r} in {what} is not supported: it must be {value!r}.")
