"""Read transformers' CLIPModel and SiglipModel.

Keys and defaults are those of transformers 5; the older ``position_ids`` buffers are ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import TRAITS
from rankclip_jax.weights.formats.foreign import Foreign, model_config, require
from rankclip_jax.weights.formats.huggingface_table import KINDS, rules
from rankclip_jax.weights.formats.processors import read_preprocessor
from rankclip_jax.weights.formats.tensor_files import first_file, read_json, read_tensors
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
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


def kind_of(folder: Path) -> str | None:
    """The kind of model in a folder of transformers, a key of `KINDS`; None for anything else."""
    path = folder / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    return kind if kind in KINDS else None


def read(folder: Path) -> Foreign:
    """Read a folder that ``save_pretrained`` wrote.

    Raises:
      UserError: a file is missing or damaged, or our towers do not support the model.
    """
    kind = kind_of(folder)
    config = read_config(folder, kind)
    text = tower_section(read_json(folder / "config.json"), "text_config", kind)
    tokenizer = read_tokenizer(folder, config.text.context_length, text["vocab_size"], kind)
    if kind == "clip":
        _check_pooling(text, tokenizer, folder)
    weights = first_file(folder, WEIGHTS)
    if weights is None:
        raise UserError(f"no weights in {folder}: expected {WEIGHTS[0]} or {WEIGHTS[2]}.")
    return Foreign(
        format=f"transformers {KINDS[kind]}",
        where=str(folder),
        config=config,
        rules=rules(config),
        tensors=read_tensors(weights),
        tokenizer=tokenizer,
        ignored=lambda name: name.endswith(".position_ids"),
    )


def read_config(folder: Path, kind: str) -> ConfigDict:
    """`config.model` of a folder, without reading its weights.

    Raises:
      UserError: as in `read`.
    """
    path = folder / "config.json"
    given = read_json(path)
    text, vision = (tower_section(given, name, kind) for name in ("text_config", "vision_config"))
    require(vision, {"num_channels": 3, "vision_use_head": True}, str(path), "a vision_config")
    if kind == "clip":
        embed_dim = given.get("projection_dim", 512)
    else:
        embed_dim = vision["hidden_size"]
        require(text, {"projection_size": embed_dim}, str(path), "a text_config")
    image = _tower("vit", vision, path) | TRAITS[kind]["image"]
    image |= {"image_size": _side(vision, "image_size", path), "patch_size": _side(vision, "patch_size", path)}
    text = _tower("text_transformer", text, path) | TRAITS[kind]["text"]
    text["context_length"] = tower_section(given, "text_config", kind)["max_position_embeddings"]
    image |= read_preprocessor(folder, kind, image["image_size"])
    return model_config(folder.name, embed_dim, image, text)


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


def _side(given: Mapping[str, Any], key: str, path: Path) -> int:
    value = given[key]
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise UserError(f"{path}: {key}={value} is not square: towers read square images only.")
    return sides.pop()


def _check_pooling(text: Mapping[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    """Check that transformers pools at the end-of-text token.

    It pools at the largest id if eos_token_id is 2 (old files), otherwise at the first token with the id eos_token_id.
    """
    eos = text["eos_token_id"]
    pooled = tokenizer.vocab_size - 1 if eos == 2 else eos
    if pooled != tokenizer.eot_id:
        raise UserError(
            f"{folder}: the text tower pools at id {pooled} (eos_token_id={eos}), but its tokenizer ends texts with "
            f"{tokenizer.eot_id}: it is the tokenizer of another model."
        )
