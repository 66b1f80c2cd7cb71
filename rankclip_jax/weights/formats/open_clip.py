"""Read state dicts of OpenAI's CLIP and of open_clip: ViT and ResNet.

Both have the same keys; open_clip's ``CustomTextCLIP`` adds the prefix ``text.`` to the keys of the text tower. Shapes
determine the architecture, together with open_clip's config. Shapes alone do not determine the activation: OpenAI's
archives are recognised by extra entries, and for other files without config the user must name it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.data.text.tokenizer import CLIP_VOCAB_SIZE, Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.models.transformer import ACTIVATIONS
from rankclip_jax.weights.formats.foreign import Foreign, model_config, require
from rankclip_jax.weights.formats.open_clip_table import rules
from rankclip_jax.weights.formats.preprocessing import read_preprocess_cfg
from rankclip_jax.weights.formats.tensor_files import Tensors, first_file, read_json, read_tensors
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
# Entries of OpenAI's archives that are not weights.
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
IGNORED = (*OPENAI_ONLY, "attn_mask", "text.attn_mask")
# OpenAI's heads have width 64. Some wider towers of open_clip have wider heads, which shapes do not show.
WIDEST_TOWER_WITH_64 = 1024
# Settings of open_clip for which our towers support only one value.
CUSTOM_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
ONLY = {"ls_init_value": None, "final_ln_after_pool": False, "block_type": None} | dict.fromkeys(CUSTOM_BLOCKS, False)
VISION_ONLY = {"timm_model_name": None, "attentional_pool": False, "pos_embed_type": "learnable", "pool_type": "tok"}
TEXT_ONLY = {"hf_model_name": None, "embed_cls": False, "proj_type": "linear"}
POOLS = {"argmax": "first_eot", "last": "last"}


def read(path: Path, config_file: Path | None = None, activation: str = "") -> Foreign:
    """Read a file with a state dict, or an open_clip folder.

    Args:
      path: the file, or a folder with a config and weights.
      config_file: open_clip's JSON config, for a file that is not in such a folder.
      activation: "quick_gelu" or "gelu", for a state dict without config.

    Raises:
      UserError: the file is damaged, our towers do not support the model, or the activation is unknown.
    """
    folder = path if path.is_dir() else path.parent
    weights = first_file(path, WEIGHTS) if path.is_dir() else path
    if weights is None:
        raise UserError(f"no weights in {path}: expected {WEIGHTS[1]} or {WEIGHTS[2]}.")
    config_file = config_file or first_file(folder, [CONFIG])
    tensors = _read_state_dict(weights)
    given = read_json(config_file) if config_file else {}
    cfg = given.get("model_cfg", given)
    shapes = _cfg_from_shapes(tensors, weights, has_config=bool(cfg))
    if not cfg:
        cfg = shapes | {"quick_gelu": _activation(tensors, activation, weights) == "quick_gelu"}
    where = str(config_file or weights)
    config = _model_config(weights.stem, cfg, shapes, where)
    preprocess = given.get("preprocess_cfg")
    config.image.update(read_preprocess_cfg({} if preprocess is None else preprocess, where, config.image.image_size))
    if activation:
        config.text.activation = activation
        if config.image.tower == "vit":
            config.image.activation = activation
    return Foreign(
        format="open_clip" if given else "OpenAI state dict",
        where=str(weights),
        config=config,
        rules=rules(config, prefix=_text_prefix(tensors), with_bias="logit_bias" in tensors),
        tensors=tensors,
        tokenizer=_tokenizer(folder, cfg["text_cfg"], config.text.context_length, tensors, where),
        ignored=lambda name: name in IGNORED or name.endswith(".num_batches_tracked"),
    )


def _read_state_dict(path: Path) -> Tensors:
    tensors = read_tensors(path)
    if "visual.conv1.weight" not in tensors:
        raise UserError(
            f"{path} is not a CLIP model (it has {min(tensors)}, no visual.conv1.weight): give weights of OpenAI, "
            "open_clip or transformers; open_clip's timm towers are not supported."
        )
    return tensors


def _activation(tensors: Mapping[str, np.ndarray], given: str, weights: Path) -> str:
    if given in ACTIVATIONS:
        return given
    if given:
        raise UserError(f"--activation={given!r} is unknown. Known: {', '.join(ACTIVATIONS)}.")
    if any(name in tensors for name in OPENAI_ONLY):
        return "quick_gelu"
    raise UserError(
        f"{weights} does not determine the activation: add --activation=quick_gelu (OpenAI's weights, and open_clip's "
        f"names with quickgelu) or --activation=gelu (open_clip's other names), or put {CONFIG} into its folder."
    )


def _text_prefix(tensors: Mapping[str, np.ndarray]) -> str:
    return "text." if "text.token_embedding.weight" in tensors else ""


def _cfg_from_shapes(tensors: Mapping[str, np.ndarray], weights: Path, has_config: bool) -> dict[str, Any]:
    """An open_clip config with all sizes that the shapes determine."""
    text = _text_prefix(tensors)
    try:
        vocab_size, width = tensors[f"{text}token_embedding.weight"].shape
        projection = tensors.get(f"{text}text_projection")
        embed_dim = len(tensors[f"{text}text_projection.weight"]) if projection is None else projection.shape[1]
        context_length = len(tensors[f"{text}positional_embedding"])
        vision = _vision_shapes(tensors, weights, has_config)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{weights} is not a CLIP state dict ({error} is missing or has another shape).") from error
    text_cfg = {"context_length": context_length, "vocab_size": vocab_size, "width": width, "heads": width // 64}
    text_cfg["layers"] = _count(tensors, f"{text}transformer.resblocks.")
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text_cfg}


def _vision_shapes(tensors: Mapping[str, np.ndarray], weights: Path, has_config: bool) -> dict[str, Any]:
    if "visual.layer1.0.conv1.weight" in tensors:
        side = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        layers = tuple(_count(tensors, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
        width = len(tensors["visual.layer1.0.conv1.weight"])
        return {"image_size": 32 * side, "layers": layers, "width": width}
    width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
    if width > WIDEST_TOWER_WITH_64 and not has_config:
        raise UserError(
            f"{weights} has an image tower of width {width}, and its shapes do not determine the number of heads: give "
            f"open_clip's config with --config=FILE.json, or put {CONFIG} into its folder."
        )
    side = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    layers = _count(tensors, "visual.transformer.resblocks.")
    return {"image_size": side * patch_size, "layers": layers, "width": width, "patch_size": patch_size}


def _count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _model_config(name: str, cfg: Mapping[str, Any], shapes: Mapping[str, Any], where: str) -> ConfigDict:
    """`config.model` from an open_clip config; `shapes` has values for the keys that it lacks."""
    vision = shapes["vision_cfg"] | {k: v for k, v in cfg.get("vision_cfg", {}).items() if v is not None}
    text = shapes["text_cfg"] | {k: v for k, v in cfg.get("text_cfg", {}).items() if v is not None}
    require(vision, VISION_ONLY | ONLY, where, "a vision_cfg")
    require(text, TEXT_ONLY | ONLY, where, "a text_cfg")
    quick = bool(cfg.get("quick_gelu", False))
    pool = text.get("pool_type", "argmax")
    if pool not in POOLS:
        raise UserError(f"{where}: pool_type={pool!r} of the text tower is unknown. Known: {', '.join(POOLS)}.")
    text_options = _tower("text_transformer", text, quick, heads=text.get("heads", 8)) | {
        "context_length": text["context_length"],
        "causal": not text.get("no_causal_mask", False),
        "pool": POOLS[pool],
        "projection_bias": bool(text.get("proj_bias", False)),
    }
    vision["image_size"] = _input_size(vision["image_size"], where)
    return model_config(name, cfg.get("embed_dim", shapes["embed_dim"]), _image_options(vision, quick), text_options)


def _image_options(vision: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    head_width = vision.get("head_width", 64)
    if isinstance(vision["layers"], list | tuple):
        sizes = {"image_size": vision["image_size"], "width": vision["width"], "layers": tuple(vision["layers"])}
        return {"tower": "resnet"} | sizes | {"heads": vision["width"] * 32 // head_width, "batch_norm": "global"}
    return _tower("vit", vision, quick, heads=vision["width"] // head_width) | {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "pre_norm": not vision.get("no_ln_pre", False),
    }


def _input_size(value: Any, where: str) -> int | tuple[int, int]:
    """open_clip's ``image_size``, a side or [height, width]; equal sides become one number."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"{where} has image_size={value!r}: it must be a number of pixels, or [height, width].")
    return sides[0] if sides[0] == sides[1] else sides


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
    }


def _tokenizer(folder: Path, cfg: Mapping, context_length: int, tensors: Mapping, where: str) -> Tokenizer:
    rows = len(tensors[f"{_text_prefix(tensors)}token_embedding.weight"])
    if not cfg.get("hf_tokenizer_name"):
        if rows != CLIP_VOCAB_SIZE:
            raise UserError(
                f"{where}: the token embedding has {rows:,} rows, but CLIP's tokenizer has {CLIP_VOCAB_SIZE:,} ids: "
                "the model has another tokenizer, which a state dict does not hold."
            )
        return clip_tokenizer(context_length)
    tokenizer = read_tokenizer(folder, context_length, rows, "clip")
    if tokenizer.eot_id != rows - 1 and POOLS[cfg.get("pool_type", "argmax")] == "first_eot":
        raise UserError(
            f"{where}: texts are pooled at their largest id, which is not the end-of-text token of this tokenizer "
            f"({tokenizer.eot_id} of {rows:,})."
        )
    return tokenizer
