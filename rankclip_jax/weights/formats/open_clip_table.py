"""The table of state dicts of OpenAI and open_clip: ViT, ResNet, towers of timm and the text tower."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.mapping import Rule, dense_rules, norm_rules, rule
from rankclip_jax.weights.formats.timm_towers import timm_rules


def rules(
    config: ConfigDict,
    has: Sequence[str] = ("image", "text"),
    prefix: str = "",
    timm: bool = False,
    scalars: Sequence[str] = ("logit_scale",),
) -> list[Rule]:
    """The table for the towers of `config.model`.

    Args:
      config: `config.model`.
      has: the towers in the state dict.
      prefix: precedes the keys of the text tower, such as "text.".
      timm: whether the image tower is one of timm.
      scalars: the learned scalars, "logit_scale" and SigLIP's "logit_bias".

    Raises:
      UserError: the format cannot hold these towers; the message names the field.
    """
    image, text = config.image, config.text
    if image.tower not in ("vit", "resnet") or text.tower != "text_transformer":
        raise UserError(f"open_clip has no image tower {image.tower!r}: its format supports vit and resnet.")
    found = [rule(f"scalars/{name}", name, "scalar") for name in scalars]
    if "text" in has:
        found += _text_rules(text, prefix)
    if "image" in has and timm:
        found += timm_rules(image.pool)
    elif "image" in has:
        found += _vit_rules(image) if image.tower == "vit" else _resnet_rules(image)
    return found


def _text_rules(text: ConfigDict, prefix: str) -> list[Rule]:
    theirs = f"{prefix}text_projection"
    projection = [rule("towers/text/text_projection", theirs)] if text.projection else []
    if text.projection_bias:
        projection = [rule("towers/text/text_projection", f"{theirs}.weight", "linear")]
        projection += [rule("towers/text/text_projection_bias", f"{theirs}.bias")]
    return [
        rule("towers/text/token_embedding", f"{prefix}token_embedding.weight"),
        rule("towers/text/positional_embedding", f"{prefix}positional_embedding"),
        *norm_rules("towers/text/ln_final", f"{prefix}ln_final"),
        *_blocks("towers/text", f"{prefix}transformer.resblocks", text.layer_scale),
        *projection,
    ]


# What open_clip's own vision transformer always has.
VIT_ONLY = {"patch_bias": False, "projection": True, "projection_bias": False}


def _vit_rules(image: ConfigDict) -> list[Rule]:
    for key, value in VIT_ONLY.items():
        if image[key] != value:
            raise UserError(f"open_clip needs model.image.{key}={value!r}, but this model has {image[key]!r}.")
    if image.pool == "map":
        raise UserError(
            "open_clip's own vision transformer has no pooling with a learned query (model.image.pool='map')."
        )
    return [
        rule("towers/image/conv1/kernel", "visual.conv1.weight", "conv"),
        rule("towers/image/class_embedding", "visual.class_embedding"),
        rule("towers/image/positional_embedding", "visual.positional_embedding"),
        *(norm_rules("towers/image/ln_pre", "visual.ln_pre") if image.pre_norm else []),
        *norm_rules("towers/image/ln_post", "visual.ln_post"),
        *_blocks("towers/image", "visual.transformer.resblocks", image.layer_scale),
        rule("towers/image/proj", "visual.proj"),
    ]


def _blocks(tower: str, layers: str, layer_scale: float) -> list[Rule]:
    ours, theirs = f"{tower}/transformer/blocks", f"{layers}.{{i}}"
    scales = [rule(f"{ours}/{name}", f"{theirs}.{name}.gamma") for name in ("ls_1", "ls_2")]
    return [
        *(scales if layer_scale else []),
        *norm_rules(f"{ours}/ln_1", f"{theirs}.ln_1"),
        rule(f"{ours}/attn/in_proj/kernel", f"{theirs}.attn.in_proj_weight", "linear"),
        rule(f"{ours}/attn/in_proj/bias", f"{theirs}.attn.in_proj_bias"),
        *dense_rules(f"{ours}/attn/out_proj", f"{theirs}.attn.out_proj"),
        *norm_rules(f"{ours}/ln_2", f"{theirs}.ln_2"),
        *dense_rules(f"{ours}/c_fc", f"{theirs}.mlp.c_fc"),
        *dense_rules(f"{ours}/c_proj", f"{theirs}.mlp.c_proj"),
    ]


def _resnet_rules(image: ConfigDict) -> list[Rule]:
    """Our ResNet's parameters have OpenAI's names, with / instead of dots."""
    found = [one for i in (1, 2, 3) for one in _conv_and_norm("", f"conv{i}", f"bn{i}")]
    for stage, blocks in enumerate(image.layers, 1):
        for block in range(blocks):
            at = f"layer{stage}/{block}/"
            found += [one for i in (1, 2, 3) for one in _conv_and_norm(at, f"conv{i}", f"bn{i}")]
        # The first block of each stage changes the shape, and has a projection shortcut.
        found += _conv_and_norm(f"layer{stage}/0/downsample/", "0", "1")
    found += [rule("towers/image/attnpool/positional_embedding", "visual.attnpool.positional_embedding")]
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        found += dense_rules(f"towers/image/attnpool/{name}", f"visual.attnpool.{name}")
    return found


def _conv_and_norm(at: str, conv: str, norm: str) -> list[Rule]:
    theirs = f"visual.{at}{norm}".replace("/", ".")
    return [
        rule(f"towers/image/{at}{conv}/kernel", f"visual.{at}{conv}.weight".replace("/", "."), "conv"),
        *norm_rules(f"towers/image/{at}{norm}", theirs),
        rule(f"batch_stats/image/{at}{norm}/mean", f"{theirs}.running_mean"),
        rule(f"batch_stats/image/{at}{norm}/var", f"{theirs}.running_var"),
    ]
