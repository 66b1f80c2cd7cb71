"""Models of open_clip with other towers than CLIP's: embeddings and tokens that open_clip computed."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from rankclip_jax.errors import UserError
from rankclip_jax.inference.load import load, read_model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.weights.export import export
from rankclip_jax.weights.formats.source import read_source
from rankclip_jax.weights.formats.tokenizer_files import read_tokenizer
from rankclip_jax.weights.formats.vocabulary import fits
from tests.golden.make_weights import FOLDER, OTHERS, PADDED_ROWS, TEXTS, sample_images
from tests.weights.test_import import assert_same

pytestmark = pytest.mark.xdist_group("weights")


def embeddings(model, images, tokens):
    towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
    variables = {"params": model.weights.params["towers"], **model.weights.model_state}
    image = towers.apply(variables, jnp.asarray(images), method="encode_image")
    return np.asarray(image), np.asarray(towers.apply(variables, jnp.asarray(tokens), method="encode_text"))


@pytest.mark.parametrize("name", OTHERS)
def test_open_clip_computes_the_same(name):
    model = read_model(FOLDER / name)
    with np.load(FOLDER / name / "expected.npz") as expected:
        tokens = model.tokenizer(TEXTS)
        np.testing.assert_array_equal(tokens, expected["tokens"])
        image, text = embeddings(model, sample_images(name), tokens)
        np.testing.assert_allclose(image, expected["image_embeds"], atol=1e-5)
        np.testing.assert_allclose(text, expected["text_embeds"], atol=1e-5)


def test_rows_of_a_padded_vocabulary_are_left_out():
    model = read_model(FOLDER / "worldwide")
    ids = model.tokenizer.vocab_size
    assert ids < PADDED_ROWS and model.weights.params["towers"]["text"]["token_embedding"].shape[0] == ids
    assert model.notes == (
        f"{PADDED_ROWS - ids} rows of the token embedding are left out: the tokenizer has {ids} ids",
    )
    sizes = [(100, 100), (102, 100), (128, 100), (49_472, 49_408), (250_112, 250_100), (49_664, 49_408)]
    assert all(fits(rows, ids) for rows, ids in sizes)
    assert not any(fits(rows, ids) for rows, ids in [(99, 100), (300, 268), (304, 268), (64_000, 49_408)])


def test_ids_may_have_gaps(tmp_path):
    """The number of tokens of a tokenizer is not its number of ids."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1, "b": 9}, unk_token="a"))
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    assert read_tokenizer(tmp_path, 4, 16, "open_clip").vocab_size == 10
    with pytest.raises(UserError, match="has 10 ids, but the model's token embedding has 9 rows"):
        read_tokenizer(tmp_path, 4, 9, "open_clip")


@pytest.mark.parametrize("name", ["clipa", "worldwide"])
def test_export_is_the_inverse_of_import(tmp_path, name):
    model = read_source(FOLDER / name)
    export(FOLDER / name, "open_clip", tmp_path / name)
    again = read_source(tmp_path / name)
    assert_same(model, again)
    assert again.config.image == model.config.image and again.config.text == model.config.text


# Models that are refused, before their weights are read.


def refused(tmp_path, section, **changes):
    """The error for a folder without weights whose config has other values."""
    cfg = {"embed_dim": 24, "vision_cfg": {}, "text_cfg": {}}
    (cfg[section] if section else cfg).update(changes)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not read")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(UserError) as caught:
        read_source(tmp_path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("", {"multimodal_cfg": {"width": 512}}, "this is a CoCa model, which is not supported"),
        ("vision_cfg", {"timm_model_name": "convnext_base"}, "convnext_base of timm is not supported: it needs stages"),
        (
            "vision_cfg",
            {"timm_model_name": "eva02_base_patch16_clip_224"},
            "eva02_base_patch16_clip_224 of timm is",
        ),
        ("vision_cfg", {"timm_model_name": "vitamin_small_224"}, "vitamin_small_224 of timm is not supported"),
        ("vision_cfg", {"timm_model_name": "fastvit_mci1"}, "fastvit_mci1 of timm is not supported"),
        ("vision_cfg", {"timm_model_name": "vit_pe_core_base_patch16_224"}, "it needs rotary positions"),
        ("vision_cfg", {"timm_model_name": "brand_new"}, "only vit_*_siglip_* and vit_*_clip_* are"),
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}, "timm_pool='avg' of the image tower"),
        ("vision_cfg", {"qk_norm": True}, "qk_norm=True in a vision_cfg is not supported"),
        ("vision_cfg", {"attentional_pool": True}, "attentional_pool=True in a vision_cfg is not supported"),
        ("vision_cfg", {"pool_type": "none"}, "pool_type='none' is not supported. Supported: tok, avg"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "the text tower roberta-base of transformers is not supported"),
        ("text_cfg", {"embed_cls": True}, "embed_cls=True in a text_cfg is not supported"),
        ("text_cfg", {"pool_type": "mean"}, "pool_type='mean' is not supported"),
        ("text_cfg", {"n_heads": 4}, "'n_heads' is not a setting of open_clip."),
        ("", {"quickgelu": True}, "'quickgelu' is not a setting of open_clip. Did you mean 'quick_gelu'?"),
        ("", {"quick_gelu": "false"}, "quick_gelu='false' must be true or false"),
        ("vision_cfg", {"global_average_pool": True}, "global_average_pool=True in a vision_cfg is not supported"),
    ],
)
def test_refusals_name_the_tower_or_setting(tmp_path, section, changes, message):
    said = refused(tmp_path, section, **changes)
    assert message in said and "open_clip_config.json" in said and said.isprintable()


def test_a_missing_number_of_text_heads_is_the_default_of_open_clip(tmp_path):
    """8 in open_clip, whatever the width; without any config, 64 of the width belong to a head."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "open_clip", folder)
    content = json.loads((folder / "open_clip_config.json").read_text())
    text = content["model_cfg"]["text_cfg"]
    assert text.pop("heads") != 8 and text["width"] % 8 == 0
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    assert read_source(folder).config.text.heads == 8


def test_other_tokenizers(tmp_path):
    folder = tmp_path / "timm"
    shutil.copytree(FOLDER / "timm", folder)
    content = json.loads((folder / "open_clip_config.json").read_text())
    content["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"language": "de"}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="language='de' in tokenizer_kwargs is not supported"):
        read_source(folder)


# One tower.


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_lone_tower(tmp_path, side):
    folder = tmp_path / "clipa"
    shutil.copytree(FOLDER / "clipa", folder)
    path = folder / "model.fp16.safetensors"
    lone = {
        k: x for k, x in load_file(path).items() if k.startswith("visual.") == (side == "image") and "logit" not in k
    }
    save_file(lone, path)
    model, whole = read_model(folder), read_model(FOLDER / "clipa")
    other = {"image": "text", "text": "image"}[side]
    assert model.notes == (f"there is no {other} tower in these weights",)
    assert list(model.weights.params["towers"]) == [side] and model.weights.params["scalars"] == {}
    encoder = load(folder)
    if side == "text":
        np.testing.assert_array_equal(encoder.encode_text("a cat"), load(FOLDER / "clipa").encode_text("a cat"))
        call = lambda: encoder.encode_image(sample_images("clipa"))  # noqa: E731
    else:
        proj = model.weights.params["towers"]["image"]["proj"]
        np.testing.assert_array_equal(proj, whole.weights.params["towers"]["image"]["proj"])
        call = lambda: encoder.encode_text("a cat")  # noqa: E731
    with pytest.raises(UserError, match=f"these weights have no {other} tower"):
        call()
    with pytest.raises(UserError, match=r"has no .* tower: only models with both towers are exported"):
        export(folder, "open_clip", tmp_path / "out")
