"""Training that begins with given weights: `config.init_from`.

The source is a run folder, an imported folder, or foreign weights. Parameters that the source has are taken; those that
it lacks (heads, a bias) are initialised as usual. Anything that does not fit is rejected before the run begins.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.inference.load import read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.models.positions import fit_image_positions, fit_text_positions
from rankclip_jax.run_folder import has_checkpoint
from rankclip_jax.trees import leaves_with_path, name_of, path_of

# Fields of a tower that may differ: weights do not depend on them, or position embeddings are resized.
FREE = ("remat", "dtype", "patch_dropout", "batch_norm", "resize", "image_size", "context_length")


def read_initial(config: ConfigDict, workdir: str | None) -> Model | None:
    """Read `config.init_from` and fit it to the sizes of `config.model`.

    Returns:
      None without `init_from`, and for a run that already has a checkpoint in `workdir`.

    Raises:
      UserError: it cannot be read, or has another architecture.
    """
    if not config.init_from or (workdir and has_checkpoint(workdir)):
        return None
    model = read_model(config.init_from)
    check_architecture(model, config.model)
    return _fitted(model, config.model)


def check_architecture(model: Model, config: ConfigDict) -> None:
    """Reject weights whose towers differ from those of `config` (`config.model`), even where all shapes are equal.

    Raises:
      UserError: names the fields that differ, as flags.
    """
    differing = []
    if model.config.embed_dim != config.embed_dim:
        differing.append(("embed_dim", config.embed_dim, model.config.embed_dim))
    for side in ("image", "text"):
        have, want = (_decisive(one[side]) for one in (model.config, config))
        keys = ["tower"] if have["tower"] != want["tower"] else sorted(have | want)
        differing += [(f"{side}.{k}", want.get(k), have.get(k)) for k in keys if want.get(k) != have.get(k)]
    if differing:
        shown = ", ".join(f"model.{key}={_shown(has)} (config: {_shown(wanted)})" for key, wanted, has in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"config.init_from={model.origin} has {shown}{more}: set config.model to the same, or begin with "
            f"--config=configs/finetune.py:{model.origin}"
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
    """Reject a tokenizer whose ids have another meaning than those that the weights were trained with.

    Raises:
      UserError: the vocabularies differ.
    """
    if model.tokenizer.vocabulary != tokenizer.vocabulary:
        raise UserError(
            f"config.init_from={model.origin} was trained with another vocabulary ({model.tokenizer.vocab_size:,} ids) "
            f"than config.tokenizer gives ({tokenizer.vocab_size:,}): set config.tokenizer.name=from_weights."
        )


def _fitted(model: Model, config: ConfigDict) -> Model:
    """The model with position embeddings for the sizes of `config`; `notes` says what was changed."""
    towers = {side: dict(tree) for side, tree in model.params["towers"].items()}
    notes, image, text = list(model.notes), config.image, config.text
    old_size, old_context = model.config.image.image_size, model.config.text.context_length
    if old_size != image.image_size and image.tower == "convnet":
        raise UserError(
            f"config.init_from={model.origin} is for images of {old_size} pixels and config.model for "
            f"{image.image_size}: a convnet's last layer fits one size only."
        )
    if old_size != image.image_size:
        _fit_image(towers["image"], image)
        notes.append(f"image position embeddings resized from {old_size} to {image.image_size} pixels")
    if old_context != text.context_length:
        towers["text"]["positional_embedding"] = fit_text_positions(
            towers["text"]["positional_embedding"], text.context_length
        )
        notes.append(f"text position embeddings cut from {old_context} to {text.context_length}")
    tokenizer = model.tokenizer.with_context(text.context_length)
    return model._replace(params={**model.params, "towers": towers}, tokenizer=tokenizer, notes=tuple(notes))


def _fit_image(tower: dict[str, Any], image: ConfigDict) -> None:
    if image.tower == "resnet":
        pool = dict(tower["attnpool"])
        pool["positional_embedding"] = fit_image_positions(pool["positional_embedding"], image.image_size, 32, True)
        tower["attnpool"] = pool
    else:
        has_class = image.pool == "class"
        tower["positional_embedding"] = fit_image_positions(
            tower["positional_embedding"], image.image_size, image.patch_size, has_class
        )


def begin(state: dict, model: Model) -> dict:
    """The state at step 0 in which the arrays of `model` replace the drawn ones, in the averaged weights too."""
    params, model_state = _merged(state["params"], model.params), _merged(state["model_state"], model.model_state)
    new = state | {"params": params, "model_state": model_state}
    if state["ema"]:  # needs arrays of its own, because the step donates both
        given = {"params": model.params, "model_state": model.model_state}
        new["ema"] = {name: _merged(drawn, given[name]) for name, drawn in state["ema"].items()}
    return new


def describe(abstract: dict, model: Model) -> str:
    """Which arrays `begin` will take, draw and ignore, for the start-up card.

    Raises:
      UserError: an array has another shape.
    """
    wanted = _shapes(abstract["params"]) | _shapes(abstract["model_state"])
    found = _shapes(model.params) | _shapes(model.model_state)
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
    """Towers, heads and scalars that these arrays belong to: their second key."""
    return sorted({path[1] for path in paths})


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in leaves_with_path(tree)}


def _merged(drawn: Any, given: Mapping[str, Any]) -> Any:
    """`drawn` with the arrays of `given` at the same paths, in the shardings and dtypes of those they replace."""
    found = {path: np.asarray(leaf) for path, leaf in leaves_with_path(given)}

    def take(path, leaf):
        value = found.get(path_of(path))
        if value is None:
            return leaf
        value = value.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(take, drawn)
