"""Weights of other libraries: same results, import and export without loss, and an error for every mistake."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rankclip_jax.errors import UserError
from rankclip_jax.inference.load import encoder_of, load, read_model, read_model_config
from rankclip_jax.weights.export import export
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import read_source
from tests.golden.make_weights import FOLDER, TEXTS, images, sample_images
from tests.support import commands, processes

pytestmark = pytest.mark.xdist_group("weights")
RULES = {"hf": "transformers", "open_clip": "open_clip"}  # the rules of the library whose files were read last
FORMATS = {"clip": "transformers CLIPModel", "siglip": "transformers SiglipModel", "open_clip": "open_clip"}


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def leaves(model):
    tree = model.weights._asdict()
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def assert_same(model, other):
    mine, theirs = leaves(model), leaves(other)
    assert set(mine) == set(theirs)
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert model.tokenizer.vocabulary == other.tokenizer.vocabulary


def test_the_other_library_computes_the_same(kind):
    """transformers and open_clip wrote these folders; their embeddings were stored by `make_weights`."""
    model = read_model(FOLDER / kind)
    assert model.format == FORMATS[kind]
    encoder = encoder_of(model)
    with np.load(FOLDER / kind / "expected.npz") as expected:
        tokens = encoder.tokenize(TEXTS)
        ends = (tokens == model.tokenizer.eot_id).argmax(1) if kind != "siglip" else [tokens.shape[1]] * 3
        for ours, theirs, end in zip(tokens, expected["tokens"], ends, strict=True):
            np.testing.assert_array_equal(ours[: end + 1], theirs[: end + 1])
        image, text = encoder.encode_image(images()), encoder.encode_text(TEXTS)
        np.testing.assert_allclose(image, expected["image_embeds"], atol=1e-5)
        np.testing.assert_allclose(text, expected["text_embeds"], atol=1e-5)
        scalars = model.weights.params["scalars"]
        logits = np.exp(scalars["logit_scale"]) * image @ text.T + scalars.get("logit_bias", 0)
        np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def test_prepared_images_are_not_resized_again(tmp_path):
    """With a resize to more than the crop, images of the tower's size are resized and cropped too."""
    shutil.copytree(FOLDER / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text('{"size": 20, "crop_size": 16}')
    encoder = load(tmp_path / "clip")
    given = images()
    prepared = np.stack([encoder.pixels(image) for image in given])
    assert not np.array_equal(prepared, given)
    np.testing.assert_array_equal(encoder.encode_image(prepared, prepared=True), encoder.encode_image(given))
    np.testing.assert_array_equal(encoder.image_features(prepared, prepared=True), encoder.image_features(given))


def test_images_that_are_not_square(tmp_path):
    """Read, kept and exported for open_clip; transformers has no such model."""
    with np.load(FOLDER / "worldwide" / "expected.npz") as expected:
        for folder in (FOLDER / "worldwide", tmp_path / "imported", tmp_path / "exported"):
            model = read_model(folder)
            assert tuple(model.config.image.image_size) == (24, 16)
            found = encoder_of(model).encode_image(sample_images("worldwide"))
            np.testing.assert_allclose(found, expected["image_embeds"], atol=1e-5)
            if folder == FOLDER / "worldwide":
                write_imported(model, tmp_path / "imported")
                export(folder, "open_clip", tmp_path / "exported")
    with pytest.raises(UserError):
        export(FOLDER / "worldwide", "hf", tmp_path / "hf")


@pytest.mark.parametrize("size", [[16], [16, 0], [16, 16, 16], "16", 16.0, [16, None]])
def test_an_invalid_image_size(tmp_path, size):
    shutil.copytree(FOLDER / "worldwide", tmp_path / "wide")
    damage_config(tmp_path / "wide", "open_clip_config.json", model_cfg__vision_cfg__image_size=size)
    with pytest.raises(UserError, match=r"has image_size=.*: it must be a number of pixels, or \[height, width\]"):
        read_source(tmp_path / "wide")


def test_an_imported_folder_is_the_same_model(tmp_path, kind):
    foreign = read_source(FOLDER / kind)
    write_imported(foreign, tmp_path / "out")
    kept = read_model(tmp_path / "out")
    assert_same(foreign, kept)
    assert read_model_config(tmp_path / "out").image.to_dict() == json.loads(json.dumps(foreign.config.image.to_dict()))
    assert load(tmp_path / "out").step == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name, kinds", [("hf", ("clip", "siglip", "open_clip")), ("open_clip", ("clip", "open_clip"))])
def test_export_is_the_inverse_of_import(tmp_path, name, kinds):
    for kind in kinds:
        foreign = read_source(FOLDER / kind)
        assert export(FOLDER / kind, name, tmp_path / kind) == []
        assert_same(foreign, read_source(tmp_path / kind))
        expected, found = foreign.config, read_model_config(tmp_path / kind)
        expected.image.resize = expected.image.resize.replace(expected.image.resize.split(",")[-1], RULES[name])
        for section in ("image", "text"):
            assert expected[section].to_dict() == found[section].to_dict()
        card = (tmp_path / kind / "README.md").read_text()
        assert f'from_pretrained("{kind}")' in card or f"local-dir:{kind}" in card


def test_exported_keys_and_tensors_equal_the_librarys(tmp_path):
    export(FOLDER / "siglip", "hf", tmp_path / "out")
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (FOLDER / "siglip", tmp_path / "out"))
    assert {name: x.shape for name, x in theirs.items()} == {name: x.shape for name, x in ours.items()}
    for name, x in theirs.items():
        np.testing.assert_array_equal(x.astype(np.float32), ours[name])


# Mistakes.


@pytest.fixture
def folder(tmp_path):
    """A copy of the CLIPModel folder with all weights in one file, to damage."""
    shutil.copytree(FOLDER / "clip", tmp_path / "clip")
    tensors = {}
    for path in sorted((tmp_path / "clip").glob("model*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (tmp_path / "clip" / "model.safetensors.index.json").unlink()
    save_file(tensors, tmp_path / "clip" / "model.safetensors")
    return tmp_path / "clip"


def damage_tensors(folder, change):
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def damage_config(folder, file, **changes):
    config = json.loads((folder / file).read_text())
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[name] = value
    (folder / file).write_text(json.dumps(config))


LN = "vision_model.post_layernorm.weight"
MISTAKES = {
    "missing": (lambda f: damage_tensors(f, lambda t: t.pop(LN)), f"lacks {LN} of this architecture"),
    "left over": (
        lambda f: damage_tensors(f, lambda t: t.update(extra=t[LN].copy())),
        "holds extra, which this architecture does not have",
    ),
    "shape": (
        lambda f: damage_tensors(f, lambda t: t.update({LN: np.ones(5, np.float16)})),
        rf"{LN} in .* has shape \[5\] and this model needs \[24\]",
    ),
    "NaN": (lambda f: damage_tensors(f, lambda t: t.update({LN: t[LN] * np.float16(np.nan)})), f"{LN} in .* holds NaN"),
    "integers": (lambda f: damage_tensors(f, lambda t: t.update({LN: np.ones(24, np.int32)})), "has dtype int32"),
    "layers": (
        lambda f: damage_config(f, "config.json", text_config__num_hidden_layers=3),
        r"lacks text_model\.encoder\.layers\.2\..* and 15 more",
    ),
    "activation": (
        lambda f: damage_config(f, "config.json", text_config__hidden_act="relu"),
        "hidden_act='relu'",
    ),
    "channels": (
        lambda f: damage_config(f, "config.json", vision_config__num_channels=4),
        "num_channels=4 in ",
    ),
    "oblong": (
        lambda f: damage_config(f, "config.json", vision_config__image_size=[16]),
        r"has image_size=\[16\]: it must be a number of pixels, or \[height, width\]",
    ),
    "model": (lambda f: damage_config(f, "config.json", model_type="bert"), "holds a model of type 'bert'"),
    "vocabulary": (
        lambda f: damage_config(f, "config.json", text_config__vocab_size=300),
        "the tokenizer in .* has 268 ids, but the model's token embedding has 300 rows: replace it",
    ),
    "pooling": (lambda f: damage_config(f, "config.json", text_config__eos_token_id=7), "pools at id 7"),
    "tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"there is no tokenizer\.json"),
    "weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in"),
    "config": (lambda f: (f / "config.json").write_text("{"), r"config\.json is damaged"),
    "crop": (
        lambda f: (f / "preprocessor_config.json").write_text('{"crop_size": 20}'),
        "makes images of .* but the model reads 16 x 16 pixels",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line_for_each_mistake(folder, mistake):
    damage, message = MISTAKES[mistake]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_source(folder)
    assert "\n" not in str(caught.value)


def test_models_that_a_format_cannot_hold(tmp_path):
    with pytest.raises(UserError, match=r"open_clip needs model.image.patch_bias=False, but this model has True"):
        export(FOLDER / "siglip", "open_clip", tmp_path / "out")
    with pytest.raises(UserError, match="unknown format 'onnx'"):
        export(FOLDER / "siglip", "onnx", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already and is never overwritten"):
        export(FOLDER / "siglip", "hf", tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_command(capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ("import", FOLDER / "clip", f"--out={out}")
    code, said, err = processes.finish(processes.start_python("-m", "rankclip_jax.weights", *arguments), 120)
    assert (code, err) == (0, ""), err
    assert "every tensor was used" in said and f"written to {out}" in said
    arguments = ("export", out, "--format=hf", f"--out={tmp_path / 'hf'}")
    code, said, err = commands.run_module(capsys, "rankclip_jax.weights", *arguments)
    assert code == 0, err
    assert_same(read_model(out), read_model(tmp_path / "hf"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("import", "nowhere/at-all", "--out=OUT"),
            "there is no path 'nowhere/at-all' on this machine, and the Hugging",
        ),
        (("import", "./nowhere", "--out=OUT"), "no weights at ./nowhere: give a file, a folder, or a hub id"),
        (("import", str(FOLDER / "clip")), "--out is required"),
        (("import",), "expected a command and a source"),
        (("improt", "x"), "unknown command 'improt'. Did you mean 'import'?"),
        (("export", "./nowhere", "--format=hf", "--out=OUT"), "no run at "),
    ],
)
def test_mistakes_in_the_command(capsys, monkeypatch, tmp_path, arguments, message):
    out = tmp_path / "out"
    arguments = [argument.replace("OUT", str(out)) for argument in arguments]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = commands.run_module(capsys, "rankclip_jax.weights", *arguments)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"error: {message}")
    assert not out.exists()
