"""Write a model as a checkpoint of open_clip: the state dict and ``open_clip_config.json``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.inference.model import Model
from rankclip_jax.models.text import reads_padding
from rankclip_jax.weights.formats.foreign import arrays_by_path
from rankclip_jax.weights.formats.mapping import to_theirs
from rankclip_jax.weights.formats.open_clip import CONFIG
from rankclip_jax.weights.formats.open_clip_config import TEXT_POOLS
from rankclip_jax.weights.formats.open_clip_table import rules
from rankclip_jax.weights.formats.preprocessing import write_preprocess_cfg
from rankclip_jax.weights.formats.tokenizer_files import has_padding_row, padded_embedding, write_tokenizer

EMBEDDING = "token_embedding.weight"
# Our cleaning of texts: the function of open_clip that is nearest to it.
CLEANINGS = {"clip": "lower", "lower": "lower", "canonical": "canonicalize", "open_clip_canonical": "canonicalize"}
CLEANINGS |= {"whitespace": "whitespace", "none": "whitespace"}


def tensors(model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state dict, and an empty list: it omits nothing.

    Raises:
      UserError: open_clip has no model with these towers.
    """
    arrays = arrays_by_path(model)
    if "scalars/logit_scale" not in arrays:
        raise UserError(f"{model.origin} has no logit_scale, which open_clip needs: export a run of another objective.")
    model_cfg(model)  # rejects what the config of the format cannot describe
    scalars = [path.removeprefix("scalars/") for path in arrays if path.startswith("scalars/")]
    table = rules(model.config, scalars=scalars)
    state = to_theirs(table, arrays, "open_clip")
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    if _has_padding_row(model):
        state[EMBEDDING] = padded_embedding(state[EMBEDDING])
    return state | {f"{norm}num_batches_tracked": np.array(0, np.int64) for norm in norms}, []


def _has_padding_row(model: Model) -> bool:
    """Whether the exported tokenizer has an id for padding. open_clip has CLIP's tokenizer, and pads it with 0 too."""
    text = model.config.text
    reads = reads_padding(text.causal, text.pool)
    return not model.tokenizer.is_clip_vocabulary and has_padding_row(model.tokenizer, reads)


def write_files(model: Model, folder: Path, name: str) -> None:
    """Write the config, and the tokenizer's files unless the vocabulary is CLIP's. open_clip finds them by `name`."""
    cfg = model_cfg(model)
    if not model.tokenizer.is_clip_vocabulary:
        cleaning = {"tokenizer_kwargs": {"clean": CLEANINGS[model.tokenizer.special.cleaning]}}
        cfg["text_cfg"] |= {"hf_tokenizer_name": name} | cleaning
        text = model.config.text
        write_tokenizer(model.tokenizer, folder, reads_padding(text.causal, text.pool))
    content = {"model_cfg": cfg, "preprocess_cfg": write_preprocess_cfg(model.config.image)}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def model_cfg(model: Model) -> dict[str, Any]:
    """open_clip's description of the towers.

    Raises:
      UserError: it cannot describe them; the message names the field.
    """
    config = model.config
    image, text = config.image, config.text
    quick = [tower.activation == "quick_gelu" for tower in (image, text) if "activation" in tower]
    if len(set(quick)) > 1:
        raise UserError(
            f"open_clip has quick_gelu in both towers or in none, but this model has {image.activation!r} for images "
            f"and {text.activation!r} for texts."
        )
    text_cfg = _tower(text) | {
        "context_length": text.context_length,
        "vocab_size": model.tokenizer.vocab_size + _has_padding_row(model),
        "heads": text.heads,
        "pool_type": next(theirs for theirs, ours in TEXT_POOLS.items() if ours == text.pool),
        "no_causal_mask": not text.causal,
        "proj_type": "linear" if text.projection else "none",
        "proj_bias": text.projection_bias,
    }
    if text.pool == "first_eot" and model.tokenizer.eot_id != text_cfg["vocab_size"] - 1:
        text_cfg |= {"pool_type": "eos", "eos_id": model.tokenizer.eot_id}  # not at the largest id, as in "argmax"
    cfg = {"embed_dim": config.embed_dim, "vision_cfg": _vision_cfg(image), "text_cfg": text_cfg}
    if text.activation == "quick_gelu":
        cfg["quick_gelu"] = True
    if "logit_bias" in model.weights.params["scalars"]:
        cfg["init_logit_bias"] = float(model.weights.params["scalars"]["logit_bias"])
    return cfg


def _vision_cfg(image: ConfigDict) -> dict[str, Any]:
    if image.tower == "resnet":
        sizes = {"image_size": image.image_size, "width": image.width, "layers": list(image.layers)}
        return sizes | {"head_width": image.width * 32 // image.heads}
    if image.tower != "vit":
        return {}  # the table rejects this tower
    cfg = _tower(image) | {"image_size": image.image_size, "patch_size": image.patch_size}
    cfg |= {"head_width": image.width // image.heads, "no_ln_pre": not image.pre_norm}
    if image.pool in ("mean", "norm_mean"):
        cfg |= {"pool_type": "avg", "final_ln_after_pool": image.pool == "mean"}
    return cfg


def _tower(tower: ConfigDict) -> dict[str, Any]:
    width, hidden = tower.width, tower.mlp_width or 4 * tower.width
    if int(width * (hidden / width)) != hidden:
        raise UserError(f"open_clip stores MLP widths as a ratio, and {hidden} / {width} is not exact.")
    cfg = {"layers": tower.layers, "width": width, "mlp_ratio": hidden / width}
    if tower.layer_scale:
        cfg["ls_init_value"] = tower.layer_scale
    if tower.activation == "gelu_tanh":
        cfg["act_kwargs"] = {"approximate": "tanh"}
    if tower.ln_eps != 1e-5:
        cfg["norm_kwargs"] = {"eps": tower.ln_eps}
    return cfg


def usage(model: Model, name: str) -> str:
    """Python code that opens the folder called `name`."""
    del model
    return (
        "import open_clip\n\n"
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{name}")\n'
        f'tokenizer = open_clip.get_tokenizer("local-dir:{name}")\n'
        "image_embeds = model.encode_image(preprocess(image)[None], normalize=True)\n"
        'text_embeds = model.encode_text(tokenizer(["a cat"]), normalize=True)'
    )
