"""Image towers of timm in open_clip: which of them our vision transformer is, and why the others are not supported.

A name of timm determines heads and activation; the shapes of the tensors determine everything else.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import TRAITS
from rankclip_jax.weights.formats.mapping import Rule, dense_rules, norm_rules, rule

TRUNK = "visual.trunk"
SUPPORTED = re.compile(r"vit_(?P<size>\w+)_patch\d+_(?P<kind>siglip|clip)_\d+")
HEADS = {"xsmall": 4, "medium": 8, "betwixt": 10, "base": 12}
HEADS |= dict.fromkeys(("large", "so400m", "huge", "giant", "giantopt", "gigantic"), 16)
# SigLIP's towers of timm with the approximate GELU; the others, and CLIP's, have the exact one.
TANH = re.compile(r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt_patch16)\w*")
# Settings of open_clip for the two kinds: how tokens are pooled, and whether the classifier is the projection.
SETTINGS = {
    "siglip": {"timm_pool": "map", "timm_proj": "none"},
    "clip": {"timm_pool": "token", "timm_proj": None},
}
# What a tower would need that no tower here has, by the beginning of its name.
MISSING = {
    "convnext": "stages of depthwise convolutions",
    "eva": "attention with biases of another kind, rotary positions or MLPs with gates",
    "vitamin": "convolutional stages before the transformer",
    "fastvit": "convolutional stages with layers that are merged for inference",
    "vit_base_mci": "a convolutional stem",
    "vit_pe_core": "rotary positions",
    "vit_relpos": "relative positions",
    "vit_medium_patch16_gap": "attention without biases, and no class token in the average",
    "swin": "attention in windows",
    "naflexvit": "images of any size",
    "resnet": "timm's ResNet, which differs from OpenAI's",
}


def check_timm(vision: Mapping[str, Any], where: str) -> None:
    """Check that our vision transformer can be the tower of timm in a ``vision_cfg``.

    Raises:
      UserError: it cannot; the message names the tower and what it would need.
    """
    name = base_name(vision)
    missing = next((what for start, what in MISSING.items() if name.startswith(start)), None)
    found = SUPPORTED.fullmatch(name)
    if missing is None and found and found["size"] in HEADS:
        for key, value in SETTINGS[found["kind"]].items():
            given = vision.get(key, {"timm_pool": "avg", "timm_proj": "linear"}[key])
            if (given or None) != (value or None):
                raise UserError(f"{where}: {key}={given!r} of the image tower {name} is not supported, only {value!r}.")
        return
    needed = f"it needs {missing}" if missing else "only vit_*_siglip_* and vit_*_clip_* are"
    raise UserError(f"{where}: the image tower {name} of timm is not supported: {needed}. Use other weights.")


def base_name(vision: Mapping[str, Any]) -> str:
    """Name of the architecture, without the tag of pretrained weights: ``vit_base_patch16_siglip_224.webli``."""
    return str(vision["timm_model_name"]).partition(".")[0]


def timm_options(vision: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """`config.model.image` of a tower of timm.

    Raises:
      UserError: the tensors are those of another tower.
    """
    name = base_name(vision)
    found = SUPPORTED.fullmatch(name)
    clips, blocks = found["kind"] == "clip", f"{TRUNK}.blocks."
    try:
        width, _, patch_size, _ = tensors[f"{TRUNK}.patch_embed.proj.weight"].shape
        hidden = len(tensors[f"{blocks}0.mlp.fc1.bias"])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{where} names the image tower {name}, but the weights have another one ({error}).") from error
    activation = "quick_gelu" if "quickgelu" in name else "gelu_tanh" if not clips and TANH.fullmatch(name) else "gelu"
    traits = TRAITS["clip"]["image"] | {"projection_bias": True} if clips else TRAITS["siglip"]["image"]
    return traits | {
        "tower": "vit",
        "image_size": vision.get("image_size", 224),
        "patch_size": patch_size,
        "width": width,
        "layers": len({key.removeprefix(blocks).split(".")[0] for key in tensors if key.startswith(blocks)}),
        "heads": HEADS[found["size"]],
        "activation": activation,
        "mlp_width": 0 if hidden == 4 * width else hidden,
        "ln_eps": 1e-5 if clips else 1e-6,
    }


def timm_rules(pool: str) -> list[Rule]:
    """The table of the image tower: SigLIP's if `pool` is "map", otherwise CLIP's."""
    ours = "towers/image"
    return [
        rule(f"{ours}/conv1/kernel", f"{TRUNK}.patch_embed.proj.weight", "conv"),
        rule(f"{ours}/positional_embedding", f"{TRUNK}.pos_embed", "one_first"),
        *_blocks(f"{ours}/transformer/blocks", f"{TRUNK}.blocks.{{i}}"),
        *norm_rules(f"{ours}/ln_post", f"{TRUNK}.norm"),
        *(_map_rules(ours) if pool == "map" else _class_rules(ours)),
    ]


def _class_rules(ours: str) -> list[Rule]:
    return [
        rule(f"{ours}/class_embedding", f"{TRUNK}.cls_token", "probe"),
        *norm_rules(f"{ours}/ln_pre", f"{TRUNK}.norm_pre"),
        rule(f"{ours}/proj", f"{TRUNK}.head.weight", "linear"),
        rule(f"{ours}/proj_bias", f"{TRUNK}.head.bias"),
    ]


def _map_rules(ours: str) -> list[Rule]:
    head, theirs = f"{ours}/map_head", f"{TRUNK}.attn_pool"
    return [
        rule(f"{ours}/conv1/bias", f"{TRUNK}.patch_embed.proj.bias"),
        rule(f"{head}/probe", f"{theirs}.latent", "probe"),
        *dense_rules(f"{head}/q_proj", f"{theirs}.q"),
        *dense_rules(f"{head}/kv_proj", f"{theirs}.kv"),
        *dense_rules(f"{head}/out_proj", f"{theirs}.proj"),
        *norm_rules(f"{head}/ln", f"{theirs}.norm"),
        *dense_rules(f"{head}/c_fc", f"{theirs}.mlp.fc1"),
        *dense_rules(f"{head}/c_proj", f"{theirs}.mlp.fc2"),
    ]


def _blocks(ours: str, theirs: str) -> list[Rule]:
    return [
        *norm_rules(f"{ours}/ln_1", f"{theirs}.norm1"),
        *dense_rules(f"{ours}/attn/in_proj", f"{theirs}.attn.qkv"),
        *dense_rules(f"{ours}/attn/out_proj", f"{theirs}.attn.proj"),
        *norm_rules(f"{ours}/ln_2", f"{theirs}.norm2"),
        *dense_rules(f"{ours}/c_fc", f"{theirs}.mlp.fc1"),
        *dense_rules(f"{ours}/c_proj", f"{theirs}.mlp.fc2"),
    ]
