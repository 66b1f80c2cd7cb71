"""Training from given weights: `config.init_from`.

The source is a run folder, an imported folder, or foreign weights. Parameters that the source lacks (heads, a bias) are
initialised as usual. Weights that do not fit are rejected before the run begins.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.image_size import Size, height_width_of, size_text
from rankclip_jax.inference.load import read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.models.positions import fit_image_positions, fit_text_positions
from rankclip_jax.models.resnet import REDUCTION
from rankclip_jax.models.vit import has_class_token
from rankclip_jax.run_folder import has_checkpoint
from rankclip_jax.trees import leaves_with_path, name_of, path_of

# Fields of a tower that may differ: weights do not depend on them, or position embeddings are resized.
FREE = ("remat", "dtype", "patch_dropout", "batch_norm", "resize", "image_size", "context_length")


def read_initial(config: ConfigDict, workdir: str | None) -> Model | None:
    """Read `config.init_from` and fit it to the sizes of `config.model`.

    Returns None without `init_from`, and for a run that already has a checkpoint in `workdir`.

    Raises:
      UserError: the weights cannot be read, or have another architecture.
    """
    if not config.init_from or (workdir and has_checkpoint(workdir)):
        return None
    model = read_model(config.init_from)
    check_architecture(model, config.model)
    return _fitted(model, config.model)


def check_architecture(model: Model, config: ConfigDict) -> None:
    """Raise a UserError with the fields that differ between the weights' towers and `config` (`config.model`).

    Fields may differ even if all shapes are equal.
    """
    differing, has = [], model.weights.params["towers"]
    if model.config.embed_dim != config.embed_dim:
        differing.append(("embed_dim", config.embed_dim, model.config.embed_dim))
    for side in (side for side in ("image", "text") if side in has):
        have, want = (_decisive(one[side]) for one in (model.config, config))
        keys = ["tower"] if have["tower"] != want["tower"] else sorted(have | want)
        differing += [(f"{side}.{k}", want.get(k), have.get(k)) for k in keys if want.get(k) != have.get(k)]
    if differing:
        listed = [f"model.{key}={_shown(has)} (config: {_shown(wanted)})" for key, wanted, has in differing]
        raise UserError(
            f"config.init_from={model.origin} has {first_few(listed, ', ')}: set config.model to the same, or begin "
            f"with --config=configs/finetune.py:{model.origin}"
        )


def _decisive(tower: ConfigDict) -> dict[str, Any]:
    """The fields of a tower that its weights depend on."""
    plain = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in tower.to_dict().items()}
    if plain.get("mlp_width") == 0:
        plain["mlp_width"] = 4 * plain["width"]
    return {key: value for key, value in plain.items() if key not in FREE}


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value) if isinstance(value, str) else f"{value}".replace(" ", "")


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Raise a UserError if the weights were trained with another vocabulary than `tokenizer.vocabulary`."""
    if "text" in model.weights.params["towers"] and model.tokenizer.vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"config.init_from={model.origin} was trained with another vocabulary ({model.tokenizer.vocab_size:,} ids) "
            f"than config.tokenizer gives ({tokenizer.vocab_size:,}): set config.tokenizer.name=from_weights."
        )


def _fitted(model: Model, config: ConfigDict) -> Model:
    """The model with position embeddings for the sizes of `config`; `notes` lists the changes."""
    towers = {side: dict(tree) for side, tree in model.weights.params["towers"].items()}
    notes, image, text = list(model.notes), config.image, config.text
    old_size, old_context = model.config.image.image_size, model.config.text.context_length
    if "image" in towers and height_width_of(old_size) != height_width_of(image.image_size):
        old, new = size_text(old_size), size_text(image.image_size)
        if image.tower == "convnet":
            raise UserError(
                f"config.init_from={model.origin} is for images of {old} pixels and config.model for {new}: a "
                "convnet's last layer fits one size only."
            )
        _fit_image(towers["image"], image, old_size)
        notes.append(f"image position embeddings resized from {old} to {new} pixels")
    if "text" in towers and old_context != text.context_length:
        tower, key = towers["text"], "positional_embedding"
        tower[key] = fit_text_positions(tower[key], text.context_length)
        notes.append(f"text position embeddings cut from {old_context} to {text.context_length}")
    tokenizer = model.tokenizer.with_context(text.context_length)
    weights = model.weights._replace(params={**model.weights.params, "towers": towers})
    return model._replace(weights=weights, tokenizer=tokenizer, notes=tuple(notes))


def _fit_image(tower: dict[str, Any], image: ConfigDict, old_size: Size) -> None:
    key = "positional_embedding"
    if image.tower == "resnet":
        pool = tower["attnpool"]
        tower["attnpool"] = {**pool, key: fit_image_positions(pool[key], image.image_size, REDUCTION, True, old_size)}
    else:
        has_token = has_class_token(image.pool)
        tower[key] = fit_image_positions(tower[key], image.image_size, image.patch_size, has_token, old_size)


def begin(state: dict, model: Model) -> dict:
    """The state at step 0 with the arrays of `model` instead of the random ones, also in the averaged weights."""
    given = model.weights._asdict()
    new = state | {name: _merged(state[name], given[name]) for name in given}
    if state["ema"]:  # needs its own copies, because the train step donates both
        new["ema"] = {name: _merged(drawn, given[name]) for name, drawn in state["ema"].items()}
    return new


def describe(abstract: dict, model: Model) -> str:
    """Text for the start-up card: which arrays `begin` takes from `model`, leaves as initialised, and ignores.

    Raises:
      UserError: an array has another shape.
    """
    wanted = _shapes(abstract["params"]) | _shapes(abstract["model_state"])
    found = _shapes(model.weights.params) | _shapes(model.weights.model_state)
    for path in wanted.keys() & found.keys():
        if wanted[path] != found[path]:
            raise UserError(
                f"config.init_from={model.origin}: {name_of(path)} has shape {list(found[path])}, and "
                f"config.model needs {list(wanted[path])}: change config.model."
            )
    parts = {
        "taken": _parts(wanted.keys() & found.keys()),
        "initialised": _parts(wanted.keys() - found.keys()),
        "not used": _parts(found.keys() - wanted.keys()),
    }
    said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return f"; from {model.origin} ({model.format}): " + "; ".join([*said, *model.notes])


def _parts(paths: Any) -> list[str]:
    """Towers, heads and scalars of these arrays: the second key of each path."""
    return sorted({path[1] for path in paths})


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in leaves_with_path(tree)}


def _merged(drawn: Any, given: Mapping[str, Any]) -> Any:
    """`drawn` with the arrays of `given` at the same paths. Shardings and dtypes stay those of `drawn`."""
    found = {path: np.asarray(leaf) for path, leaf in leaves_with_path(given)}

    def take(path, leaf):
        value = found.get(path_of(path))
        if value is None:
            return leaf
        value = value.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(take, drawn)
