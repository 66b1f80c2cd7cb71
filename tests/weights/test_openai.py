"""State dicts of OpenAI's models: what follows from shapes and archives, and what the user must give."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.weights.export import export
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.foreign import array_shapes
from rankclip_jax.weights.formats.mapping import to_theirs
from rankclip_jax.weights.formats.open_clip_table import rules
from rankclip_jax.weights.formats.source import read_source
from tests.golden import make_resnet
from tests.support import torch_files
from tests.weights.test_import import assert_same

pytestmark = pytest.mark.xdist_group("weights")


def openai_state(config, vocab_size):
    """A state dict with OpenAI's keys and random float16 tensors."""

    class Vocabulary:
        eot_id = vocab_size - 1

    Vocabulary.vocab_size = vocab_size
    shapes = array_shapes(config, Vocabulary) | {"scalars/logit_scale": ()}
    blank = to_theirs(rules(config), {path: np.zeros(shape, np.float16) for path, shape in shapes.items()}, "OpenAI")
    rng = np.random.default_rng(0)
    return {name: (0.1 * rng.standard_normal(x.shape)).astype(np.float16) for name, x in blank.items()}


def vit():
    config = get_preset("mu")
    config.embed_dim = 8
    config.image.update(image_size=32, patch_size=16, width=64, layers=2, heads=1)
    config.text.update(context_length=10, width=64, layers=1, heads=1)
    return config


def test_openai_archives_determine_everything(tmp_path):
    """OpenAI released TorchScript archives with three integers that a plain state dict does not have."""
    state = openai_state(vit(), 49_408)
    archive = torch_files.Archive()
    tree = {}
    for name, x in (state | {"input_resolution": np.int64(32), "context_length": np.int64(10)}).items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = archive.tensor(x)
    path = archive.write(tmp_path / "ViT.pt", scripted(tree))
    model = read_source(path)
    image, text = model.config.image, model.config.text
    assert (image.image_size, image.patch_size, image.width, image.layers, image.heads) == (32, 16, 64, 2, 1)
    assert (text.context_length, text.width, text.layers, text.heads) == (10, 64, 1, 1)
    assert image.activation == text.activation == "quick_gelu" and model.tokenizer.is_clip_vocabulary
    np.testing.assert_array_equal(
        model.weights.params["towers"]["image"]["proj"], state["visual.proj"].astype(np.float32)
    )
    kernel = model.weights.params["towers"]["image"]["transformer"]["blocks"]["attn"]["in_proj"]["kernel"]
    np.testing.assert_array_equal(kernel[1].T, state["visual.transformer.resblocks.1.attn.in_proj_weight"])


def scripted(tree):
    parts = {name: scripted(value) if isinstance(value, dict) else value for name, value in tree.items()}
    return torch_files.Scripted("Module", **parts)


def test_a_bare_state_dict_needs_its_activation(tmp_path):
    path = torch_files.save(tmp_path / "x.pt", openai_state(vit(), 49_408))
    with pytest.raises(UserError, match=r"does not determine the activation: import it with --activation=quick_gelu"):
        read_source(path)
    with pytest.raises(UserError, match=r"--activation='relu' is unknown"):
        read_source(path, activation="relu")
    assert read_source(path, activation="gelu").config.text.activation == "gelu"


def test_openai_resnet(tmp_path):
    """Features equal those of OpenAI's ResNet for a state dict with its keys."""
    config = get_preset("mu-rn")
    config.embed_dim = make_resnet.EMBED_DIM
    config.image.update(make_resnet.SIZES | {"image_size": make_resnet.IMAGE_SIZE})
    config.text.update(context_length=5, width=64, heads=1, layers=1)
    state = openai_state(config, 49_408)
    for name, x in state.items():
        if name.startswith("visual."):
            state[name] = make_resnet.values(name.removeprefix("visual."), x.shape).astype(np.float32)
    state["visual.bn1.num_batches_tracked"] = np.int64(3)
    model = read_source(torch_files.save(tmp_path / "rn.pt", state), activation="quick_gelu")
    assert (
        model.config.image.to_dict().items() >= dict(config.image, batch_norm="global", resize="crop,open_clip").items()
    )
    tower = build_towers(model.config, 49_408, 49_407).image
    variables = {
        "params": model.weights.params["towers"]["image"],
        "batch_stats": model.weights.model_state["batch_stats"]["image"],
    }
    found = jax.jit(tower.apply)(variables, make_resnet.random_images().astype(np.float32))
    expected = make_resnet.read()["eval"].reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    export_and_back(model, tmp_path)


def export_and_back(model, tmp_path):
    write_imported(model, tmp_path / "imported")
    export(tmp_path / "imported", "open_clip", tmp_path / "out")
    state = load_file(tmp_path / "out" / "open_clip_pytorch_model.safetensors")
    assert state["visual.layer2.0.downsample.1.num_batches_tracked"].dtype == np.int64
    assert_same(model, read_source(tmp_path / "out"))
    with pytest.raises(UserError, match="no model with an image tower 'resnet'"):
        export(tmp_path / "imported", "hf", tmp_path / "hf")
