"""The table of transformers' CLIPModel and SiglipModel, and which of them can hold our towers."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import TRAITS
from rankclip_jax.weights.formats.mapping import Rule, dense_rules, norm_rules, rule

KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel"}


def config_kind(config: ConfigDict) -> str:
    """The kind of model that can hold the towers of `config.model`, a key of `KINDS`.

    Raises:
      UserError: no kind can; the message names the field.
    """
    if (config.image.tower, config.text.tower) != ("vit", "text_transformer"):
        raise UserError(
            f"transformers has no model with an image tower {config.image.tower!r}: --format=hf supports only vit"
            + ("; --format=open_clip supports ResNets too." if config.image.tower == "resnet" else ".")
        )
    kind = "siglip" if config.image.pool == "map" else "clip"
    for side, traits in TRAITS[kind].items():
        for key, value in traits.items():
            if config[side][key] != value:
                raise UserError(
                    f"{KINDS[kind]} needs model.{side}.{key}={value!r}, but this model has {config[side][key]!r}."
                )
    return kind


def rules(config: ConfigDict, has: Sequence[str] = ("image", "text")) -> list[Rule]:
    """The table for the towers of `config.model`.

    Args:
      has: the towers in the state dict. Without both of them, the model has no learned scalars.

    Raises:
      UserError: as in `config_kind`.
    """
    if len(has) == 2:
        return _both(config, config_kind(config))
    kind = "siglip" if config.image.pool == "map" else "clip"
    theirs = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}[has[0]]
    found = [one for one in _both(config, kind) if one.theirs[0].startswith(theirs)]
    return found if config[has[0]].projection else [one for one in found if not one.theirs[0].startswith(theirs[1])]


def _both(config: ConfigDict, kind: str) -> list[Rule]:
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
        *norm_rules("towers/image/ln_pre", "vision_model.pre_layrnorm"),  # transformers' spelling
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
