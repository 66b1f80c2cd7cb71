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
from rankclip_jax.image_size import Size, height_width_of
from rankclip_jax.inference.model import Model
from rankclip_jax.models.presets import CLIP_IMAGE, CLIP_TEXT, IMAGE_DEFAULTS, TEXT_DEFAULTS, get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.trees import leaves_with_path, name_of
from rankclip_jax.weights.formats.mapping import Rule, to_ours
from rankclip_jax.weights.formats.vocabulary import fits


@dataclass(frozen=True)
class Foreign:
    """A model in another library's format, read but not yet converted.

    Attributes:
      format, where: name of the format, and the file or folder, for messages.
      config: `config.model` of the same architecture.
      rules: the table that maps its tensors to ours.
      tensors: its state dict.
      tokenizer: its tokenizer; any one for a lone image tower.
      ignored: (name) -> whether a tensor is not a weight.
      notes: what was changed while it was read, one line each.
    """

    format: str
    where: str
    config: ConfigDict
    rules: Sequence[Rule]
    tensors: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    ignored: Callable[[str], bool]
    notes: tuple[str, ...] = ()


def convert(foreign: Foreign) -> Model:
    """Convert a foreign model. Every tensor must be used.

    Raises:
      UserError: a tensor is missing, unused or has another shape, or sizes contradict each other.
    """
    paths = {path for rule in foreign.rules for path in rule.ours}
    towers = {path.split("/")[1] for path in paths if not path.startswith("scalars/")}
    shapes = {path: () for path in paths if path.startswith("scalars/")}
    shapes |= {k: v for k, v in array_shapes(foreign.config, foreign.tokenizer).items() if k.split("/")[1] in towers}
    tensors, cut = _without_unused_rows(foreign)
    arrays = to_ours(foreign.rules, tensors, shapes, foreign.where, foreign.ignored)
    tree = unflatten_dict(arrays, sep="/")
    missing = [side for side in ("image", "text") if side not in towers]
    lone = [f"there is no {side} tower in these weights" for side in missing]
    return Model(
        config=foreign.config,
        weights=Weights(
            params={"towers": tree["towers"], "scalars": tree.get("scalars", {})},
            model_state={"batch_stats": tree["batch_stats"]} if "batch_stats" in tree else {},
        ),
        tokenizer=foreign.tokenizer,
        step=0,
        origin=foreign.where,
        format=foreign.format,
        notes=(*foreign.notes, *cut, *lone),
    )


def _without_unused_rows(foreign: Foreign) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """The tensors without the rows of the token embedding that the tokenizer has no ids for, and a note about it."""
    path, ids = ("towers/text/token_embedding",), foreign.tokenizer.vocab_size
    names = [rule.theirs[0] for rule in foreign.rules if rule.ours == path]
    embedding = foreign.tensors.get(names[0]) if names else None
    if embedding is None or embedding.ndim != 2 or not (len(embedding) > ids and fits(len(embedding), ids)):
        return foreign.tensors, []
    note = f"{len(embedding) - ids:,} rows of the token embedding are left out: the tokenizer has {ids:,} ids"
    return {**foreign.tensors, names[0]: embedding[:ids]}, [note]


def array_shapes(config: ConfigDict, tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """Shape of every array of the towers in `config`, by path, without distribution heads."""
    towers = build_towers(config, tokenizer.vocab_size, tokenizer.eot_id)
    # No arrays: a damaged config can ask for any size.
    images = jax.ShapeDtypeStruct((1, *height_width_of(towers.image.image_size), 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, towers.text.context_length), jnp.int32)
    variables = dict(jax.eval_shape(towers.init, jax.random.key(0), images, tokens))
    tree = {"towers": variables.pop("params"), **variables}
    return {name_of(path): leaf.shape for path, leaf in leaves_with_path(tree)}


def arrays_by_path(model: Model) -> dict[str, np.ndarray]:
    """Every array of a model by path, without distribution heads."""
    params, model_state = model.weights
    missing = [side for side in ("image", "text") if side not in params["towers"]]
    if missing:
        raise UserError(f"{model.origin} has no {missing[0]} tower: only models with both towers are exported.")
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


def input_size(given: Mapping[str, Any], key: str, where: str) -> Size:
    """A size in a foreign config, a side or [height, width]; equal sides become one number.

    Raises:
      UserError: it is missing, or has another form.
    """
    value = given.get(key)
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise UserError(f"{where} has {key}={value!r}: it must be a number of pixels, or [height, width].")
    return pair[0] if pair[0] == pair[1] else pair


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
