"""open_clip's ``model_cfg``: `config.model` of the same towers, or the reason why no tower here is the same."""

from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, did_you_mean
from rankclip_jax.weights.formats.foreign import input_size, model_config, require
from rankclip_jax.weights.formats.timm_towers import check_timm

# Settings for which our towers support only one value.
CUSTOM_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
ONLY = {"block_type": None} | dict.fromkeys(CUSTOM_BLOCKS, False)
VISION_ONLY = ONLY | {"attentional_pool": False}
TEXT_ONLY = ONLY | {"embed_cls": False, "tokenizer_mode": None}
# Settings of older versions. Others that are not listed here may change what a model computes, and are errors.
VISION_ONLY |= {"global_average_pool": False, "input_patchnorm": False}
# fmt: off
SECTION_KEYS = {
    "width", "layers", "heads", "head_width", "mlp_ratio", "ls_init_value", "act_kwargs", "norm_kwargs",
    "final_ln_after_pool", "pool_type", "image_size", "patch_size", "no_ln_pre", "context_length", "vocab_size",
    "no_causal_mask", "proj_type", "proj_bias", "timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias",
    "hf_tokenizer_name", "tokenizer_kwargs", "eos_id",
    # These change no result of a supported model.
    "output_tokens", "patch_dropout", "pos_embed_type", "pad_id", "timm_model_pretrained", "timm_drop",
    "timm_drop_path", "attn_pooler_queries", "attn_pooler_heads", "n_queries", "hf_model_name",
    "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
    *VISION_ONLY, *TEXT_ONLY,
}
MODEL_KEYS = {
    "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "init_logit_scale",
    "init_logit_bias", "nonscalar_logit_scale", "cast_dtype", "output_dict", "preprocess_cfg",
}
# fmt: on
TEXT_HEADS = 8  # open_clip's default, whatever the width
SWITCHES = ("quick_gelu", "no_ln_pre", "final_ln_after_pool", "no_causal_mask", "proj_bias")
# open_clip's pool_type: ours. The end-of-text token is the largest id ("argmax") or eos_id ("eos").
TEXT_POOLS = {"argmax": "first_eot", "eos": "first_eot", "last": "last", "first": "first"}


def check_supported(cfg: Mapping[str, Any], where: str) -> None:
    """Check that our towers can hold the model, before its weights are read.

    Raises:
      UserError: they cannot; the message names the tower or setting, and what it would need.
    """
    vision, text = (_section(cfg, name, where) for name in ("vision_cfg", "text_cfg"))
    if cfg.get("multimodal_cfg"):
        raise UserError(f"{where}: this is a CoCa model, which is not supported: it needs a decoder of captions.")
    if text.get("hf_model_name"):
        raise UserError(
            f"{where}: the text tower {text['hf_model_name']} of transformers is not supported: it has other "
            "blocks, a padding mask and another pooling. Use weights with open_clip's own text tower."
        )
    if vision.get("timm_model_name"):
        check_timm(vision, where)
    for section, known in ((cfg, MODEL_KEYS), (vision, SECTION_KEYS), (text, SECTION_KEYS)):
        _check_keys(section, known, where)
    require(_given(vision), VISION_ONLY, where, "a vision_cfg")
    require(_given(text), TEXT_ONLY, where, "a text_cfg")
    for key, value, known in (
        ("pool_type", vision.get("pool_type", "tok"), ("tok", "avg")),
        ("pool_type", text.get("pool_type", "argmax"), TEXT_POOLS),
        ("proj_type", text.get("proj_type", "linear"), ("linear", "none")),
    ):
        if value not in known:
            raise UserError(f"{where}: {key}={value!r} is not supported. Supported: {', '.join(known)}.")


def _check_keys(section: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Unknown keys are errors, as in open_clip, and so are switches that are not true or false."""
    for key, value in section.items():
        if key not in known:
            raise UserError(f"{where}: {key!r} is not a setting of open_clip.{did_you_mean(key, known)}")
        if key in SWITCHES and not isinstance(value, bool | None):
            raise UserError(f"{where}: {key}={value!r} must be true or false.")


def _section(cfg: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = cfg.get(name) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{where} is damaged ({name} is not an object): download it again.")
    return found


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if value is not None}


def to_model_config(
    name: str, cfg: Mapping[str, Any], shapes: Mapping[str, Any], timm: Mapping[str, Any] | None, where: str
) -> ConfigDict:
    """`config.model` from a config that `check_supported` accepts.

    Args:
      name: `config.model.name`.
      shapes: values from the shapes of the tensors, for keys that `cfg` lacks.
      timm: `config.model.image` if the image tower is one of timm.
      where: the config or weights, for messages.

    Raises:
      UserError: a size is missing or not a number.
    """
    vision = dict(shapes["vision_cfg"]) | _given(cfg.get("vision_cfg", {}))
    text = {**shapes["text_cfg"], "heads": TEXT_HEADS, **_given(cfg.get("text_cfg", {}))}
    quick = bool(cfg.get("quick_gelu", False))
    try:
        image = dict(timm) if timm else _image_options(vision, quick)
        image["image_size"] = input_size(image, "image_size", where)
        return model_config(name, cfg.get("embed_dim", shapes.get("embed_dim")), image, _text_options(text, quick))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where} does not describe a model ({type(error).__name__}: {error}): use its own.") from error


def _image_options(vision: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    head_width = vision.get("head_width", 64)
    if isinstance(vision["layers"], list | tuple):
        sizes = {"image_size": vision["image_size"], "width": vision["width"], "layers": tuple(vision["layers"])}
        return {"tower": "resnet"} | sizes | {"heads": vision["width"] * 32 // head_width, "batch_norm": "global"}
    mean = "mean" if vision.get("final_ln_after_pool") else "norm_mean"
    return _tower("vit", vision, quick, heads=vision["width"] // head_width) | {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "pre_norm": not vision.get("no_ln_pre", False),
        "pool": mean if vision.get("pool_type") == "avg" else "class",
    }


def _text_options(text: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    return _tower("text_transformer", text, quick, heads=text["heads"]) | {
        "context_length": text["context_length"],
        "causal": not text.get("no_causal_mask", False),
        "pool": TEXT_POOLS[text.get("pool_type", "argmax")],
        "projection": text.get("proj_type", "linear") != "none",
        "projection_bias": bool(text.get("proj_bias", False)) and text.get("proj_type", "linear") != "none",
    }


def _tower(tower: str, cfg: Mapping[str, Any], quick: bool, heads: int) -> dict[str, Any]:
    width, hidden = cfg["width"], int(cfg["width"] * cfg.get("mlp_ratio", 4.0))
    tanh = (cfg.get("act_kwargs") or {}).get("approximate") == "tanh"
    return {
        "tower": tower,
        "width": width,
        "layers": cfg["layers"],
        "heads": heads,
        "activation": "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu",
        "mlp_width": 0 if hidden == 4 * width else hidden,
        "ln_eps": (cfg.get("norm_kwargs") or {}).get("eps", 1e-5),
        "layer_scale": cfg.get("ls_init_value") or 0.0,
    }
