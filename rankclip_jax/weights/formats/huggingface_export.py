"""Our towers as a folder that transformers opens: CLIPModel, or SiglipModel for its towers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.inference.model import Model
from rankclip_jax.weights.formats.foreign import arrays_by_path
from rankclip_jax.weights.formats.huggingface import ACTIVATIONS, KINDS, config_kind, rules
from rankclip_jax.weights.formats.mapping import to_theirs
from rankclip_jax.weights.formats.preprocessing import write_preprocessor
from rankclip_jax.weights.formats.tokenizer_files import write_tokenizer


def tensors(model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict, and what it leaves out.

    Raises:
      UserError: transformers has no model of these towers.
    """
    kind = config_kind(model.config)
    arrays, left_out = arrays_by_path(model), []
    if "scalars/logit_scale" not in arrays:
        raise UserError(f"{model.origin} has no logit scale, which {KINDS[kind]} needs: export another run.")
    if kind == "clip" and "scalars/logit_bias" in arrays:
        bias = float(arrays.pop("scalars/logit_bias"))
        left_out.append(f"logit_bias ({bias:.4g}) is left out: CLIPModel has none; no order of logits depends on it")
    if kind == "siglip" and "scalars/logit_bias" not in arrays:
        arrays["scalars/logit_bias"] = np.float32(0)
    if kind == "siglip" and not model.tokenizer.is_foreign:
        left_out.append(
            "padding with id 0 is left out: this text tower reads what follows a text, where transformers' tokenizer "
            "puts the end-of-text; pad input_ids with 0 yourself"
        )
    return to_theirs(rules(model.config), arrays, f"transformers {KINDS[kind]}"), left_out


def write_files(model: Model, folder: Path) -> None:
    """``config.json``, ``preprocessor_config.json`` and the tokenizer's files."""
    kind = config_kind(model.config)
    for name, content in (
        ("config.json", config_json(model)),
        ("preprocessor_config.json", write_preprocessor(model.config.image, kind)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(model.tokenizer, folder)


def config_json(model: Model) -> dict[str, Any]:
    """Content of ``config.json``, nothing left to defaults."""
    config, tokenizer = model.config, model.tokenizer
    kind = config_kind(config)
    text = _tower(config.text) | {
        "model_type": f"{kind}_text_model",
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": config.text.context_length,
        "bos_token_id": tokenizer.sot_id,
        "eos_token_id": tokenizer.eot_id,
        "pad_token_id": tokenizer.frame.pad if tokenizer.is_foreign else tokenizer.eot_id,
    }
    vision = _tower(config.image) | {
        "model_type": f"{kind}_vision_model",
        "image_size": config.image.image_size,
        "patch_size": config.image.patch_size,
        "num_channels": 3,
    }
    if kind == "clip":
        text["projection_dim"] = vision["projection_dim"] = config.embed_dim
    else:
        text["projection_size"], vision["vision_use_head"] = config.embed_dim, True
    top = {"projection_dim": config.embed_dim} if kind == "clip" else {}
    top |= {"architectures": [KINDS[kind]], "model_type": kind, "dtype": "float32"}
    return top | {"text_config": text, "vision_config": vision}


def _tower(tower: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    width = tower["width"]
    activation = tower.get("activation", "quick_gelu")
    return {
        "hidden_size": width,
        "intermediate_size": tower.get("mlp_width", 0) or 4 * width,
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation),
        "layer_norm_eps": tower.get("ln_eps", 1e-5),
        "attention_dropout": 0.0,
    }


def usage(model: Model, name: str) -> str:
    """Code that opens the folder."""
    kind = config_kind(model.config)
    prefix = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    processor = "CLIPProcessor" if kind == "clip" else "AutoProcessor"
    return (
        f"from transformers import {prefix}Model, {processor}\n\n"
        f'model = {prefix}Model.from_pretrained("{name}")\n'
        f'processor = {processor}.from_pretrained("{name}")\n'
        'padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}\n'
        'inputs = processor(text=["a cat"], images=image, **padded)\n'
        f"logits = model(**inputs).logits_per_image"
    )
