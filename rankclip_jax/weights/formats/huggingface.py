"""transformers' CLIPModel and SiglipModel: their configs and state dicts, read and written.

Key names and defaults are those of transformers 5; the older ``position_ids`` buffers are ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.foreign import Foreign, model_config, require
from rankclip_jax.weights.formats.mapping import Rule, dense_rules, norm_rules, rule
from rankclip_jax.weights.formats.preprocessing import read_preprocessor
from rankclip_jax.weights.formats.reading import first_file, read_json, read_tensors
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer

KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# transformers' hidden_act: ours.
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
# What a config that leaves a key out means by it.
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
# Fields of our towers that make them the towers of each kind.
TRAITS = {
    "clip": {
        "image": {"pool": "class", "pre_norm": True, "patch_bias": False, "projection": True},
        "text": {"causal": True, "pool": "first_eot", "projection_bias": False},
    },
    "siglip": {
        "image": {"pool": "map", "pre_norm": False, "patch_bias": True, "projection": False},
        "text": {"causal": False, "pool": "last", "projection_bias": True},
    },
}


def kind_of(folder: Path) -> str | None:
    """ "clip" or "siglip" for a folder of these models; None for anything else."""
    path = folder / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    return kind if kind in KINDS else None


def read(folder: Path) -> Foreign:
    """Read a folder that ``save_pretrained`` wrote, or that was downloaded.

    Raises:
      UserError: a file is missing or damaged, or the model is of a kind that we have no tower for.
    """
    kind = kind_of(folder)
    config = read_config(folder, kind)
    text = tower_section(read_json(folder / "config.json"), "text_config", kind)
    tokenizer = read_tokenizer(folder, config.text.context_length, text["vocab_size"], kind)
    if kind == "clip":
        _check_pooling(text, tokenizer, folder)
    weights = first_file(folder, WEIGHTS)
    if weights is None:
        raise UserError(f"there are no weights in {folder}: expected {WEIGHTS[0]} or {WEIGHTS[2]}.")
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
    """`config.model` of a folder, its weights not read."""
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
    """``text_config`` or ``vision_config`` with every default; files of transformers 4 may keep a second one."""
    older = given.get(f"{name}_dict") or {}
    return TOWER_DEFAULTS[kind][name] | {k: v for k, v in ((given.get(name) or {}) | older).items() if v is not None}


def _tower(tower: str, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    activation = given["hidden_act"]
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act={activation!r} is unknown; there are {', '.join(ACTIVATIONS)}.")
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
        raise UserError(f"{path}: {key}={value} is not square, and our towers take squares only.")
    return sides.pop()


def _check_pooling(text: Mapping[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    """transformers pools at the largest id where eos_token_id is 2 (old files), else at the first of that id."""
    eos = text["eos_token_id"]
    pooled = tokenizer.vocab_size - 1 if eos == 2 else eos
    if pooled != tokenizer.eot_id:
        raise UserError(
            f"{folder}: the text tower pools at id {pooled} (eos_token_id={eos}), and its tokenizer ends texts with "
            f"{tokenizer.eot_id}: it is another tokenizer."
        )


def config_kind(config: ConfigDict) -> str:
    """Which of these models can hold the towers of `config.model`.

    Raises:
      UserError: none of them; names the field.
    """
    if (config.image.tower, config.text.tower) != ("vit", "text_transformer"):
        raise UserError(
            f"transformers has no model with an image tower {config.image.tower!r}: --format=hf holds vit only"
            + (", --format=open_clip ResNets too." if config.image.tower == "resnet" else ".")
        )
    kind = "siglip" if config.image.get("pool", "class") == "map" else "clip"
    for side, traits in TRAITS[kind].items():
        for key, value in traits.items():
            found = config[side].get(key, TRAITS["clip"][side][key])
            if found != value:
                raise UserError(f"{KINDS[kind]} needs model.{side}.{key}={value!r}, and this model has {found!r}.")
    return kind


def rules(config: ConfigDict) -> list[Rule]:
    """The table of a CLIPModel or SiglipModel with these towers."""
    kind = config_kind(config)
    vision, text = "vision_model", "text_model"
    shared = [
        rule("scalars/logit_scale", "logit_scale", "scalar" if kind == "clip" else "array_of_one"),
        rule("towers/image/conv1/kernel", f"{vision}.embeddings.patch_embedding.weight", "conv"),
        rule("towers/image/positional_embedding", f"{vision}.embeddings.position_embedding.weight"),
        *norm_rules("towers/image/ln_post", f"{vision}.post_layernorm"),
        *_blocks("towers/image", f"{vision}.encoder.layers"),
        rule("towers/text/token_embedding", f"{text}.embeddings.token_embedding.weight"),
        rule("towers/text/positional_embedding", f"{text}.embeddings.position_embedding.weight"),
        *norm_rules("towers/text/ln_final", f"{text}.final_layer_norm"),
        *_blocks("towers/text", f"{text}.encoder.layers"),
    ]
    return shared + (_clip_rules() if kind == "clip" else _siglip_rules())


def _clip_rules() -> list[Rule]:
    return [
        rule("towers/image/class_embedding", "vision_model.embeddings.class_embedding"),
        *norm_rules("towers/image/ln_pre", "vision_model.pre_layrnorm"),  # spelt so there
        rule("towers/image/proj", "visual_projection.weight", "linear"),
        rule("towers/text/text_projection", "text_projection.weight", "linear"),
    ]


def _siglip_rules() -> list[Rule]:
    ours, theirs = "towers/image/map_head", "vision_model.head"
    apart = [(f"{ours}/q_proj/{part}", f"{ours}/kv_proj/{part}") for part in ("kernel", "bias")]
    return [
        rule("scalars/logit_bias", "logit_bias", "array_of_one"),
        rule("towers/image/conv1/bias", "vision_model.embeddings.patch_embedding.bias"),
        rule(f"{ours}/probe", f"{theirs}.probe", "probe"),
        rule(apart[0], f"{theirs}.attention.in_proj_weight", "query_apart"),
        rule(apart[1], f"{theirs}.attention.in_proj_bias", "query_bias_apart"),
        *dense_rules(f"{ours}/out_proj", f"{theirs}.attention.out_proj"),
        *norm_rules(f"{ours}/ln", f"{theirs}.layernorm"),
        *dense_rules(f"{ours}/c_fc", f"{theirs}.mlp.fc1"),
        *dense_rules(f"{ours}/c_proj", f"{theirs}.mlp.fc2"),
        rule("towers/text/text_projection", "text_model.head.weight", "linear"),
        rule("towers/text/text_projection_bias", "text_model.head.bias"),
    ]


def _blocks(tower: str, layers: str) -> list[Rule]:
    ours, theirs = f"{tower}/transformer/blocks", f"{layers}.{{i}}"
    three = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
    return [
        *norm_rules(f"{ours}/ln_1", f"{theirs}.layer_norm1"),
        rule(f"{ours}/attn/in_proj/kernel", [f"{name}.weight" for name in three], "fused_linear"),
        rule(f"{ours}/attn/in_proj/bias", [f"{name}.bias" for name in three], "fused_bias"),
        *dense_rules(f"{ours}/attn/out_proj", f"{theirs}.self_attn.out_proj"),
        *norm_rules(f"{ours}/ln_2", f"{theirs}.layer_norm2"),
        *dense_rules(f"{ours}/c_fc", f"{theirs}.mlp.fc1"),
        *dense_rules(f"{ours}/c_proj", f"{theirs}.mlp.fc2"),
    ]
