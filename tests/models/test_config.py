"""Mistakes in a model's config are errors of one line."""

import pytest
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers

VOCAB, EOT = 64, 63


def build(preset="mu", **changes):
    """Towers of a preset; `text__layers=3` changes `text.layers`."""
    config = get_preset(preset)
    for key, value in changes.items():
        *section, name = key.split("__")
        (config[section[0]] if section else config)[name] = value
    return build_towers(config, VOCAB, EOT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "ViT-B/23"}, "unknown model preset 'ViT-B/23'. Did you mean 'ViT-B/32'"),
        ({"image__tower": "vitt"}, "unknown model.image.tower 'vitt'. Did you mean 'vit'"),
        ({"dtype": "float16"}, "unknown model.dtype 'float16'"),
        ({"image__patch_size": 24}, "patch_size=24 does not divide model.image.image_size=64"),
        ({"text__heads": 3}, "model.text.heads=3 does not divide model.text.width=32"),
        ({"text__activation": "relu"}, "unknown model.text.activation 'relu'"),
        ({"image__activation": "gelu_tan"}, "unknown model.image.activation 'gelu_tan'. Did you mean 'gelu_tanh'"),
        ({"image__remat": "blocks"}, "unknown model.image.remat 'blocks'. Did you mean 'block'"),
        ({"image__pool": "last"}, "unknown model.image.pool 'last'.*Known: class, map, mean, norm_mean"),
        ({"text__pool": "map"}, "unknown model.text.pool 'map'.*Known: first, first_eot, last"),
        ({"text__dtype": "float61"}, "unknown model.text.dtype 'float61'"),
        ({"image__mlp_width": -1}, "model.image.mlp_width=-1 must be at least 0"),
        ({"image__width": 0}, "model.image.width=0 must be at least 1"),
        ({"text__ln_eps": 0.0}, "model.text.ln_eps=0.0 must be a small positive number"),
        ({"image__patch_dropout": 1.0}, "model.image.patch_dropout=1.0 must be at least 0 and less than 1"),
        ({"image__patch_dropout": -0.1}, "model.image.patch_dropout=-0.1 must be at least 0"),
        ({"image__layer_scale": 2.0}, "model.image.layer_scale=2.0 must be from 0"),
        ({"image__patch_size": 40}, "patch_size=40 does not divide"),
        ({"image__image_size": 0}, "model.image.image_size=0 must be at least 1"),
        ({"image__projection": False}, "leaves features of width 32, and model.embed_dim is 16: make them equal"),
        ({"image__pixel_mean": (0.5, 0.5)}, r"model.image.pixel_mean=\(0.5, 0.5\) must be three numbers"),
        ({"image__pixel_std": (0.5, 0.0, 0.5)}, "must be positive: pixels are divided by it"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("preset", "size", "message"),
    [
        ("mu", (64, 72), r"patch_size=16 does not divide model.image.image_size=\(64, 72\)"),
        ("mu", (64, 64, 64), r"must be a number of pixels, at least 1, or \(height, width\)"),
        ("mu", (64, 0), r"must be a number of pixels, at least 1, or \(height, width\)"),
        ("emoji", (64, 32), "is not square: only the tower vit reads such images"),
        ("mu-rn", (64, 32), "is not square: only the tower vit reads such images"),
    ],
)
def test_image_sizes_that_do_not_fit(preset, size, message):
    config = get_preset(preset)
    with config.image.ignore_type():
        config.image.image_size = size
    with pytest.raises(UserError, match=message):
        build_towers(config, VOCAB, EOT)


def test_a_switch_must_be_a_bool():
    config = get_preset("mu").to_dict()
    config["image"]["pre_norm"] = "no"
    with pytest.raises(UserError, match=r"model.image.pre_norm='no' must be True or False"):
        build_towers(ConfigDict(config), VOCAB, EOT)


@pytest.mark.parametrize("key", ["image.resize", "image.tower", "image.patch_size", "text.dtype", "text.width"])
def test_a_missing_key_is_named(key):
    section, name = key.split(".")
    config = get_preset("mu")
    del config[section][name]
    with pytest.raises(UserError, match=f"model.{section} needs {name}: add it, or choose a preset"):
        build_towers(config, VOCAB, EOT)
