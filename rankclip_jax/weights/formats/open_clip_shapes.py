"""What the names and shapes in a state dict of OpenAI or open_clip say about its architecture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.errors import UserError

# OpenAI's heads have width 64. Some wider towers of open_clip have wider heads, which shapes do not show.
WIDEST_TOWER_WITH_64 = 1024
# A name that every tower has, and the tower that it belongs to.
SIGNS = {
    "visual.conv1.weight": "image",
    "visual.trunk.patch_embed.proj.weight": "image",
    "token_embedding.weight": "text",
    "text.token_embedding.weight": "text",
}
# Sizes of a tower that the file does not hold.
ABSENT = {
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "width": 512, "heads": 8, "layers": 12},
}


def towers_of(tensors: Mapping[str, np.ndarray], weights: Path) -> tuple[str, ...]:
    """The towers that a state dict holds: "image", "text" or both.

    Raises:
      UserError: it holds neither.
    """
    found = tuple(dict.fromkeys(tower for name, tower in SIGNS.items() if name in tensors))
    if not found:
        raise UserError(
            f"{weights} is not a CLIP model (it has {min(tensors)}, no visual.conv1.weight): give weights of OpenAI, "
            "open_clip or transformers."
        )
    return found


def cfg_from_shapes(
    tensors: Mapping[str, np.ndarray], weights: Path, has: Sequence[str], has_config: bool
) -> dict[str, Any]:
    """An open_clip config with all sizes that the shapes determine.

    Raises:
      UserError: tensors are missing or have other shapes, or the shapes do not determine the number of heads.
    """
    try:
        found = dict(ABSENT)
        if "text" in has:
            found |= _text(tensors)
        if "image" in has and "visual.trunk.patch_embed.proj.weight" not in tensors:
            found["vision_cfg"] = _vision(tensors, weights, has_config)
            last = "visual.proj" if "visual.proj" in tensors else "visual.attnpool.c_proj.weight"
            found.setdefault("embed_dim", tensors[last].shape[1 if last == "visual.proj" else 0])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{weights} is not a CLIP state dict ({error} is missing or has another shape).") from error
    if "visual.trunk.patch_embed.proj.weight" in tensors and not has_config:
        raise UserError(
            f"{weights} has an image tower of timm, and its shapes do not determine its activation and heads: import "
            "it with --config=FILE.json (open_clip's config), or put open_clip_config.json into its folder."
        )
    return found


def _text(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    prefix = "text." if "text.token_embedding.weight" in tensors else ""
    vocab_size, width = tensors[f"{prefix}token_embedding.weight"].shape
    text = {"context_length": len(tensors[f"{prefix}positional_embedding"]), "vocab_size": vocab_size, "width": width}
    text |= {"heads": width // 64, "layers": _count(tensors, f"{prefix}transformer.resblocks.")}
    projection, biased = (tensors.get(f"{prefix}text_projection{end}") for end in ("", ".weight"))
    embed_dim = width if projection is None and biased is None else len(biased) if projection is None else None
    return {"text_cfg": text, "embed_dim": projection.shape[1] if embed_dim is None else embed_dim}


def _vision(tensors: Mapping[str, np.ndarray], weights: Path, has_config: bool) -> dict[str, Any]:
    if "visual.layer1.0.conv1.weight" in tensors:
        side = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        layers = tuple(_count(tensors, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
        width = len(tensors["visual.layer1.0.conv1.weight"])
        return {"image_size": 32 * side, "layers": layers, "width": width}
    width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
    if width > WIDEST_TOWER_WITH_64 and not has_config:
        raise UserError(
            f"{weights} has an image tower of width {width}, and its shapes do not determine the number of heads: "
            "import it with --config=FILE.json (open_clip's config), or put open_clip_config.json into its folder."
        )
    side = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    layers = _count(tensors, "visual.transformer.resblocks.")
    return {"image_size": side * patch_size, "layers": layers, "width": width, "patch_size": patch_size}


def _count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
