"""Write a model as a folder of transformers: a CLIPModel, or a SiglipModel for towers like SigLIP's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.inference.model import Model
from rankclip_jax.models.text import reads_padding
from rankclip_jax.weights.formats.foreign import arrays_by_path
from rankclip_jax.weights.formats.huggingface import ACTIVATIONS
from rankclip_jax.weights.formats.huggingface_table import KINDS, config_kind, rules
from rankclip_jax.weights.formats.mapping import to_theirs
from rankclip_jax.weights.formats.processors import write_preprocessor
from rankclip_jax.weights.formats.tokenizer_files import has_padding_row, padded_embedding, write_tokenizer

EMBEDDING = "towers/text/token_embedding"


def tensors(model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict, and notes on what it omits.

    Raises:
      UserError: transformers has no model with these towers.
    """
    kind = config_kind(model.config)
    if not isinstance(model.config.image.image_size, int):
        raise UserError(f"transformers' {KINDS[kind]} reads square images: export this model with --format=open_clip.")
    if kind == "clip" and model.tokenizer.eot_id == 2:
        raise UserError(
            f"{model.origin} ends texts with the id 2, for which {KINDS[kind]} pools at the largest id instead: use "
            "--format=open_clip."
        )
    arrays, omitted = arrays_by_path(model), []
    if "scalars/logit_scale" not in arrays:
        raise UserError(f"{model.origin} has no logit_scale, which {KINDS[kind]} needs: export another run.")
    if kind == "clip" and "scalars/logit_bias" in arrays:
        bias = float(arrays.pop("scalars/logit_bias"))
        omitted.append(f"logit_bias ({bias:.4g}) is left out: CLIPModel has none; the order of logits is the same")
    if kind == "siglip" and "scalars/logit_bias" not in arrays:
        arrays["scalars/logit_bias"] = np.float32(0)
    if has_padding_row(model.tokenizer, reads_padding(model.config.text.causal, model.config.text.pool)):
        arrays[EMBEDDING] = padded_embedding(arrays[EMBEDDING])
    return to_theirs(rules(model.config), arrays, f"transformers {KINDS[kind]}"), omitted


def write_files(model: Model, folder: Path, name: str) -> None:
    """Write ``config.json``, ``preprocessor_config.json`` and the tokenizer's files."""
    del name
    kind = config_kind(model.config)
    preprocessor = write_preprocessor(model.config.image, kind)
    for file, content in (("config.json", config_json(model)), ("preprocessor_config.json", preprocessor)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(model.tokenizer, folder, reads_padding(model.config.text.causal, model.config.text.pool))


def config_json(model: Model) -> dict[str, Any]:
    """Content of ``config.json``, with a value for every key that has a default."""
    config, tokenizer = model.config, model.tokenizer
    kind = config_kind(config)
    padding_row = has_padding_row(tokenizer, reads_padding(config.text.causal, config.text.pool))
    pad = tokenizer.vocab_size if padding_row else tokenizer.special.pad if tokenizer.is_foreign else tokenizer.eot_id
    text = _tower(config.text) | {
        "model_type": f"{kind}_text_model",
        "vocab_size": tokenizer.vocab_size + padding_row,
        "max_position_embeddings": config.text.context_length,
        "bos_token_id": tokenizer.sot_id,
        "eos_token_id": tokenizer.eot_id,
        "pad_token_id": pad,
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


def _tower(tower: ConfigDict) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width or 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == tower.activation),
        "layer_norm_eps": tower.ln_eps,
        "attention_dropout": 0.0,
    }


def usage(model: Model, name: str) -> str:
    """Python code that opens the folder called `name`."""
    kind = config_kind(model.config)
    processor = "CLIPProcessor" if kind == "clip" else "AutoProcessor"
    return (
        f"from transformers import {KINDS[kind]}, {processor}\n\n"
        f'model = {KINDS[kind]}.from_pretrained("{name}")\n'
        f'processor = {processor}.from_pretrained("{name}")\n'
        'padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}\n'
        'inputs = processor(text=["a cat"], images=image, **padded)\n'
        f"logits = model(**inputs).logits_per_image"
    )
