"""Where weights are: prefixes of open_clip, addresses, folders of other layouts, and transformers' towers alone."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rankclip_jax.config.base import get_config
from rankclip_jax.data.text.tokenizer import SpecialTokens, Tokenizer, train_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.inference.load import encoder_of, load, read_model
from rankclip_jax.training.init_from import check_vocabulary, read_initial
from rankclip_jax.weights.export import FORMATS
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import is_source, locate, read_source
from tests.golden.make_weights import FOLDER, TEXTS, images
from tests.weights.test_import import assert_same

pytestmark = pytest.mark.xdist_group("weights")


def test_prefixes_of_open_clip(monkeypatch):
    folder = FOLDER / "open_clip"
    assert is_source(f"local-dir:{folder}") and locate(f"local-dir:{folder}") == folder
    for source in ("local-dir:nowhere/at-all", "local-dir:", "hf-hub:./x"):
        with pytest.raises(UserError, match="no weights at"):
            locate(source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="there is no path 'nowhere/at-all' on this machine, and the Hugging Face hub"):
        read_model("hf-hub:nowhere/at-all")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "https://user:secret@example.com/a/ViT-B-32.pt?sig=secret",
            "https://example.com/a/ViT-B-32.pt is an address",
        ),
        ("https://huggingface.co/openai/clip-vit-base-patch32", "give the hub id, openai/clip-vit-base-patch32, or"),
        (
            "https://huggingface.co/timm/x/resolve/main/model.safetensors",
            "give the hub id, timm/x, or download",
        ),
        ("s3://bucket/x.pt", "s3://bucket/x.pt is an address: download the file, and give its path"),
    ],
)
def test_addresses_are_not_opened(address, message):
    assert is_source(address)
    with pytest.raises(UserError) as caught:
        read_model(address)
    assert message in str(caught.value) and "secret" not in str(caught.value)


def test_a_folder_of_sentence_transformers(tmp_path):
    shutil.copytree(FOLDER / "clip", tmp_path / "model" / "0_CLIPModel")
    (tmp_path / "model" / "modules.json").write_text("[]")
    assert_same(read_model(tmp_path / "model"), read_source(FOLDER / "clip"))
    shutil.rmtree(tmp_path / "model" / "0_CLIPModel")
    with pytest.raises(UserError, match="is a model of sentence-transformers without a CLIPModel"):
        read_model(tmp_path / "model")


def test_several_files_of_weights(tmp_path):
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds several files of weights \(epoch_1.pt, epoch_2.pt\): give one of them"):
        read_model(tmp_path)


def test_shards_without_their_index_and_a_config_without_a_type(tmp_path):
    shutil.copytree(FOLDER / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors.index.json").unlink()
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json names no model_type: add"):
        read_model(tmp_path / "clip")
    (tmp_path / "clip" / "config.json").unlink()
    with pytest.raises(UserError, match="holds shards of weights, but not their index"):
        read_model(tmp_path / "clip")


# transformers' towers alone.


def lone_tower(folder, side, projection, prefix):
    """The folder of a CLIPVisionModel or CLIPTextModel, with or without its projection and the prefix of its names."""
    shutil.copytree(FOLDER / "clip", folder)
    tensors = {}
    for path in sorted(folder.glob("model*")):
        tensors |= load_file(path) if path.suffix == ".safetensors" else {}
        path.unlink()
    kind = {"image": "vision", "text": "text"}[side]
    inner = f"{kind}_model."
    found = {name: x for name, x in tensors.items() if name.startswith(inner)}
    found = found if prefix else {name.removeprefix(inner): x for name, x in found.items()}
    name = {"image": "visual_projection.weight", "text": "text_projection.weight"}[side]
    save_file(found | ({name: tensors[name]} if projection else {}), folder / "model.fp16.safetensors")
    config = json.loads((folder / "config.json").read_text())
    flat = config[f"{kind}_config"] | {"projection_dim": config["projection_dim"], "model_type": f"clip_{kind}_model"}
    (folder / "config.json").write_text(json.dumps(flat))
    return tensors[name].astype(np.float32)


@pytest.mark.parametrize(("side", "other"), [("image", "text"), ("text", "image")])
@pytest.mark.parametrize("prefix", [True, False])
def test_a_lone_tower_with_its_projection(tmp_path, side, other, prefix):
    lone_tower(tmp_path / "x", side, projection=True, prefix=prefix)
    model = read_model(tmp_path / "x")
    assert model.format == f"transformers CLIPModel, {side} tower"
    assert model.notes == (f"there is no {other} tower in these weights",)
    encoder = encoder_of(model)
    with np.load(FOLDER / "clip" / "expected.npz") as expected:
        found = encoder.encode_image(images()) if side == "image" else encoder.encode_text(TEXTS)
        np.testing.assert_allclose(found, expected[f"{side}_embeds"], atol=1e-5)
    with pytest.raises(UserError, match=f"these weights have no {other} tower"):
        encoder.encode_text(TEXTS) if side == "image" else encoder.encode_image(images())


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_lone_tower_without_its_projection(tmp_path, side):
    projection = lone_tower(tmp_path / "x", side, projection=False, prefix=True)
    encoder = load(tmp_path / "x")
    features = (encoder.encode_image(images()) if side == "image" else encoder.encode_text(TEXTS)) @ projection.T
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    with np.load(FOLDER / "clip" / "expected.npz") as expected:
        np.testing.assert_allclose(features, expected[f"{side}_embeds"], atol=1e-5)


def test_an_imported_tower_alone_begins_a_run(tmp_path):
    lone_tower(tmp_path / "x", "image", projection=True, prefix=True)
    write_imported(read_model(tmp_path / "x"), tmp_path / "imported")
    config = get_config("mu")
    config.init_from, config.model = str(tmp_path / "imported"), read_model(tmp_path / "imported").config
    model = read_initial(config, None)
    assert list(model.weights.params["towers"]) == ["image"] and model.weights.params["scalars"] == {}
    check_vocabulary(model, train_tokenizer(["another tokenizer"], 260, 16))  # has no say


# MetaCLIP 2, which differs from CLIP only in where it finds the end-of-text token.


def multilingual(folder, eos):
    """The CLIPModel folder as a model of MetaCLIP 2 with the end-of-text id `eos`."""
    shutil.copytree(FOLDER / "clip", folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"], config["text_config"]["eos_token_id"] = "metaclip_2", eos
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_metaclip_2_pools_at_its_end_of_text_id(tmp_path):
    whole = read_source(FOLDER / "clip")
    assert_same(read_model(multilingual(tmp_path / "x", whole.tokenizer.eot_id)), whole)
    with pytest.raises(UserError, match="the text tower pools at id 2"):  # the largest id in CLIPModel
        read_model(multilingual(tmp_path / "y", 2))


def test_metaclip_2_is_the_same_in_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = multilingual(tmp_path / "x", read_source(FOLDER / "clip").tokenizer.eot_id)
    theirs = transformers.MetaClip2Model.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = load(folder)
    with torch.no_grad():
        found = theirs.get_text_features(input_ids=torch.tensor(encoder.tokenize(TEXTS)).long())
    found = getattr(found, "pooler_output", found).numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_text(TEXTS), found, atol=1e-5)


def test_models_that_transformers_would_pool_elsewhere_are_not_exported_for_it(tmp_path):
    folder = multilingual(tmp_path / "x", read_source(FOLDER / "clip").tokenizer.eot_id)
    model = read_model(folder)
    special = SpecialTokens(before=(), after=(2,), pad=0, cleaning="clip")
    model = model._replace(tokenizer=Tokenizer(model.tokenizer._bpe, model.tokenizer.context_length, special))
    with pytest.raises(UserError, match="ends texts with the id 2, for which CLIPModel pools at the largest"):
        FORMATS["hf"].writer.tensors(model)
