"""Read transformers' CLIPModel and SiglipModel, and their towers alone.

Keys and defaults are those of transformers 5; the older ``position_ids`` buffers are ignored.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import TRAITS
from rankclip_jax.weights.formats.foreign import Foreign, input_size, model_config, require
from rankclip_jax.weights.formats.huggingface_table import KINDS, rules
from rankclip_jax.weights.formats.processors import read_preprocessor
from rankclip_jax.weights.formats.tensor_files import Tensors, first_file, lone_file, read_json, read_tensors
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SECTIONS = {"image": "vision_config", "text": "text_config"}
# transformers' hidden_act: our activation.
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
# transformers' defaults for keys that a config does not have.
BASE_DEFAULTS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_DEFAULTS = BASE_DEFAULTS | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
CLIP_TEXT_DEFAULTS = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
SIGLIP_DEFAULTS = BASE_DEFAULTS | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
TOWER_DEFAULTS = {
    "clip": {
        "text_config": CLIP_DEFAULTS | CLIP_TEXT_DEFAULTS | {"max_position_embeddings": 77, "eos_token_id": 49407},
        "vision_config": CLIP_DEFAULTS | {"image_size": 224, "patch_size": 32},
    },
    "siglip": {
        "text_config": SIGLIP_DEFAULTS | {"vocab_size": 32000, "max_position_embeddings": 64},
        "vision_config": SIGLIP_DEFAULTS | {"image_size": 224, "patch_size": 16},
    },
}


# model_type of config.json: the kind of model, a key of `KINDS`, and the towers that it has.
# MetaCLIP 2 differs from CLIP only in how it finds the end-of-text token.
FAMILIES = {kind: kind for kind in KINDS} | {"metaclip_2": "clip"}
TYPES = {name: (kind, ("image", "text")) for name, kind in FAMILIES.items()}
TYPES |= {f"{name}_vision_model": (kind, ("image",)) for name, kind in FAMILIES.items()}
TYPES |= {f"{name}_text_model": (kind, ("text",)) for name, kind in FAMILIES.items()}
# What precedes the names of a tower, unless the tower was saved without the model around it.
TOWERS = {"image": "vision_model.", "text": "text_model."}
PROJECTIONS = {"image": "visual_projection.weight", "text": "text_projection.weight"}


def type_of(folder: Path) -> str | None:
    """The type of model in a folder of transformers, a key of `TYPES`; None for anything else."""
    path = folder / "config.json"
    found = read_json(path).get("model_type") if path.is_file() else None
    return found if isinstance(found, str) and found in TYPES else None


def read(folder: Path) -> Foreign:
    """Read a folder that ``save_pretrained`` wrote, with both towers or one of them.

    Raises:
      UserError: a file is missing or damaged, or our towers do not support the model.
    """
    kind, has = TYPES[type_of(folder)]
    given = _complete(read_json(folder / "config.json"), kind, has)
    config = _read_config(folder, given, kind)
    text = given["text_config"]
    tokenizer = clip_tokenizer(config.text.context_length)  # no text is read without a text tower
    if "text" in has:
        tokenizer = read_tokenizer(folder, config.text.context_length, text["vocab_size"], kind)
    if "text" in has and kind == "clip":
        _check_pooling(text, tokenizer, folder, by_id="metaclip" in type_of(folder))
    weights = first_file(folder, WEIGHTS) or lone_file(folder)
    if weights is None:
        raise UserError(f"no weights in {folder}: expected {WEIGHTS[0]} or {WEIGHTS[2]}.")
    tensors = read_tensors(weights)
    if len(has) == 1:
        tensors = _with_prefix(tensors, has[0])
        _project_lone(config, has[0], tensors)
    return Foreign(
        format=f"transformers {KINDS[kind]}" if len(has) == 2 else f"transformers {KINDS[kind]}, {has[0]} tower",
        where=str(folder),
        config=config,
        rules=rules(config, has),
        tensors=tensors,
        tokenizer=tokenizer,
        ignored=lambda name: name.endswith(".position_ids"),
    )


def _complete(given: Mapping[str, Any], kind: str, has: Sequence[str]) -> dict[str, Any]:
    """``config.json`` with complete sections for both towers. A lone tower has its settings at the top."""
    if len(has) == 1:
        given = {"projection_dim": given.get("projection_dim", 512), SECTIONS[has[0]]: dict(given)}
    return {**given, **{name: tower_section(given, name, kind) for name in SECTIONS.values()}}


def _with_prefix(tensors: Tensors, side: str) -> Tensors:
    """The tensors of a lone tower by the names that they have in a model with both towers."""
    if any(name.startswith(TOWERS[side]) for name in tensors):
        return tensors
    return {name if name in PROJECTIONS.values() else f"{TOWERS[side]}{name}": x for name, x in tensors.items()}


def _project_lone(config: ConfigDict, side: str, tensors: Tensors) -> None:
    """Lone towers of CLIPModel were saved with or without their projection."""
    if config.image.pool == "map" or PROJECTIONS[side] in tensors:
        return
    config.embed_dim = config[side].width
    config[side].projection = False


def _read_config(folder: Path, given: Mapping[str, Any], kind: str) -> ConfigDict:
    """`config.model` of a folder."""
    path = folder / "config.json"
    text, vision = given["text_config"], given["vision_config"]
    require(vision, {"num_channels": 3, "vision_use_head": True}, str(path), "a vision_config")
    if kind == "clip":
        embed_dim = given.get("projection_dim", 512)
    else:
        embed_dim = vision["hidden_size"]
        require(text, {"projection_size": embed_dim}, str(path), "a text_config")
    try:
        image = _tower("vit", vision, path) | TRAITS[kind]["image"]
        image |= {key: input_size(vision, key, str(path)) for key in ("image_size", "patch_size")}
        if not isinstance(image["patch_size"], int):
            raise UserError(f"{path}: patch_size={vision['patch_size']} is not square, which is not supported.")
        options = _tower("text_transformer", text, path) | TRAITS[kind]["text"]
        options["context_length"] = text["max_position_embeddings"]
        image |= read_preprocessor(folder, kind, image["image_size"])
        return model_config(folder.name, embed_dim, image, options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a model ({error}): download it again.") from error


def tower_section(given: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    """``text_config`` or ``vision_config`` with every default. In files of transformers 4, ``*_dict`` overrides it."""
    older = given.get(f"{name}_dict") or {}
    return TOWER_DEFAULTS[kind][name] | {k: v for k, v in ((given.get(name) or {}) | older).items() if v is not None}


def _tower(tower: str, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    activation = given["hidden_act"]
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act={activation!r} is unknown. Known: {', '.join(ACTIVATIONS)}.")
    width, hidden = given["hidden_size"], given["intermediate_size"]
    return {
        "tower": tower,
        "width": width,
        "layers": given["num_hidden_layers"],
        "heads": given["num_attention_heads"],
        "activation": ACTIVATIONS[activation],
        "mlp_width": 0 if hidden == 4 * width else hidden,
        "ln_eps": given["layer_norm_eps"],
    }


def _check_pooling(text: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, by_id: bool) -> None:
    """Check that transformers pools at the end-of-text token.

    It pools at the first token with the id eos_token_id. Unless `by_id`, an eos_token_id of 2, as in old files, stands
    for the largest id.
    """
    eos = text["eos_token_id"]
    pooled = tokenizer.vocab_size - 1 if eos == 2 and not by_id else eos
    if pooled != tokenizer.eot_id:
        raise UserError(
            f"{folder}: the text tower pools at id {pooled} (eos_token_id={eos}), but its tokenizer ends texts with "
            f"{tokenizer.eot_id}: it is the tokenizer of another model."
        )
