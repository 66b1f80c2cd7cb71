"""Read state dicts of OpenAI's CLIP and of open_clip: ViT, ResNet and towers of timm.

Both have the same keys; open_clip's ``CustomTextCLIP`` adds the prefix ``text.`` to the keys of the text tower. Shapes
determine the architecture, together with open_clip's config. Shapes alone do not determine the activation: OpenAI's
archives are recognised by extra entries, and for other files without config the user must name it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.data.text.tokenizer import Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.models.transformer import ACTIVATIONS
from rankclip_jax.weights.formats import vocabulary
from rankclip_jax.weights.formats.foreign import Foreign
from rankclip_jax.weights.formats.open_clip_config import check_supported, to_model_config
from rankclip_jax.weights.formats.open_clip_shapes import cfg_from_shapes, towers_of
from rankclip_jax.weights.formats.open_clip_table import rules
from rankclip_jax.weights.formats.preprocessing import read_preprocess_cfg
from rankclip_jax.weights.formats.tensor_files import first_file, read_json, read_tensors
from rankclip_jax.weights.formats.timm_towers import timm_options
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
# Entries of OpenAI's archives that are not weights.
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
IGNORED = (*OPENAI_ONLY, "attn_mask", "text.attn_mask")


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
    given = read_json(config_file) if config_file else {}
    cfg, where = given.get("model_cfg", given), str(config_file or weights)
    check_supported(cfg, where)
    tensors = read_tensors(weights)
    has = towers_of(tensors, weights)
    shapes = cfg_from_shapes(tensors, weights, has, has_config=bool(cfg))
    if not cfg:
        cfg = shapes | {"quick_gelu": _activation(tensors, activation, weights) == "quick_gelu"}
    vision, text = cfg.get("vision_cfg", {}), cfg.get("text_cfg", {})
    timm = timm_options(vision, tensors, where) if vision.get("timm_model_name") and "image" in has else None
    config = to_model_config(weights.stem, cfg, shapes, timm, where)
    preprocess = given.get("preprocess_cfg")
    config.image.update(read_preprocess_cfg({} if preprocess is None else preprocess, where, config.image.image_size))
    if activation:
        config.text.activation = activation
        if config.image.tower == "vit" and not timm:
            config.image.activation = activation
    return Foreign(
        format="open_clip" if given else "OpenAI state dict",
        where=str(weights),
        config=config,
        rules=rules(config, has, text_prefix(tensors), timm=bool(timm), scalars=scalars_of(tensors)),
        tensors=tensors,
        tokenizer=_tokenizer(folder, text, config.text.context_length, tensors, where),
        ignored=lambda name: name in IGNORED or name.endswith((".num_batches_tracked", "transformer.attn_mask")),
    )


def _activation(tensors: Mapping[str, np.ndarray], given: str, weights: Path) -> str:
    if given in ACTIVATIONS:
        return given
    if given:
        raise UserError(f"--activation={given!r} is unknown. Known: {', '.join(ACTIVATIONS)}.")
    if any(name in tensors for name in OPENAI_ONLY):
        return "quick_gelu"
    raise UserError(
        f"{weights} does not determine the activation: import it with --activation=quick_gelu (OpenAI's weights, and "
        f"open_clip's names with quickgelu) or --activation=gelu (open_clip's other names), or put {CONFIG} into its "
        "folder."
    )


def text_prefix(tensors: Mapping[str, np.ndarray]) -> str:
    """What precedes the names of the text tower: "text." in open_clip's ``CustomTextCLIP``."""
    return "text." if "text.token_embedding.weight" in tensors else ""


def scalars_of(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The learned scalars; a lone tower has none."""
    return tuple(name for name in ("logit_scale", "logit_bias") if name in tensors)


def _tokenizer(folder: Path, cfg: Mapping[str, Any], context_length: int, tensors: Mapping, where: str) -> Tokenizer:
    embedding = tensors.get(f"{text_prefix(tensors)}token_embedding.weight")
    if embedding is None:
        return clip_tokenizer(context_length)  # no text is read without a text tower
    rows = len(embedding)
    if not cfg.get("hf_tokenizer_name"):
        tokenizer = clip_tokenizer(context_length)
        if not vocabulary.fits(rows, tokenizer.vocab_size):
            raise UserError(
                f"{where}: the token embedding has {rows:,} rows, but CLIP's tokenizer has {tokenizer.vocab_size:,} "
                "ids: the model has another tokenizer, which a state dict does not hold."
            )
        return tokenizer
    tokenizer = read_tokenizer(folder, context_length, rows, "open_clip", cfg.get("tokenizer_kwargs"))
    pool = cfg.get("pool_type", "argmax")
    pooled = {"argmax": tokenizer.vocab_size - 1, "eos": cfg.get("eos_id", 2)}.get(pool, tokenizer.eot_id)
    if pooled != tokenizer.eot_id:
        raise UserError(
            f"{where}: texts are pooled at the id {pooled}, which is not the end-of-text token of this tokenizer "
            f"({tokenizer.eot_id} of {tokenizer.vocab_size:,})."
        )
    return tokenizer
