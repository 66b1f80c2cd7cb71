"""Initial weights are like OpenAI's: normal where its code draws them, PyTorch's defaults elsewhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.text import TextTransformer
from rankclip_jax.models.vit import VisionTransformer

pytestmark = pytest.mark.xdist_group("models_init")  # each tower is built once
WIDTH, LAYERS = 192, 4


@functools.cache
def initial_text():
    tower = TextTransformer(1000, 32, 999, width=WIDTH, layers=LAYERS, heads=4, embed_dim=128)
    return jax.jit(tower.init)(jax.random.key(0), jnp.zeros((1, 32), jnp.int32))["params"]


@functools.cache
def initial_image():
    tower = VisionTransformer(64, 8, width=WIDTH, layers=LAYERS, heads=4, embed_dim=128)
    return jax.jit(tower.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


def leaf(params, path):
    return np.asarray(functools.reduce(lambda node, key: node[key], path.split("/"), params))


@pytest.mark.parametrize(
    ("path", "std"),
    [
        ("token_embedding", 0.02),
        ("positional_embedding", 0.01),
        ("text_projection", WIDTH**-0.5),
        ("transformer/blocks/attn/in_proj/kernel", WIDTH**-0.5),
        ("transformer/blocks/attn/out_proj/kernel", WIDTH**-0.5 * (2 * LAYERS) ** -0.5),
        ("transformer/blocks/c_fc/kernel", (2 * WIDTH) ** -0.5),
        ("transformer/blocks/c_proj/kernel", WIDTH**-0.5 * (2 * LAYERS) ** -0.5),
    ],
)
def test_text_weights_start_normal(path, std):
    found = leaf(initial_text(), path)
    assert found.std() == pytest.approx(std, rel=0.03)
    assert abs(found.mean()) < 0.05 * std
    assert np.mean(np.abs(found) < std) == pytest.approx(0.683, abs=0.02)  # normal, not uniform
    assert np.abs(found).max() > 2.8 * std


@pytest.mark.parametrize("path", ["class_embedding", "positional_embedding", "proj"])
def test_image_embeddings_start_normal(path):
    found = leaf(initial_image(), path)
    assert found.std() == pytest.approx(WIDTH**-0.5, rel=5 / math.sqrt(2 * found.size))


@pytest.mark.parametrize(
    ("tower", "path", "bound"),
    [
        (initial_image, "conv1/kernel", (3 * 8 * 8) ** -0.5),
        (initial_image, "transformer/blocks/attn/in_proj/kernel", math.sqrt(6 / (4 * WIDTH))),
        (initial_image, "transformer/blocks/attn/out_proj/kernel", WIDTH**-0.5),
        (initial_image, "transformer/blocks/c_fc/kernel", WIDTH**-0.5),
        (initial_image, "transformer/blocks/c_proj/kernel", (4 * WIDTH) ** -0.5),
        (initial_image, "transformer/blocks/c_fc/bias", WIDTH**-0.5),
        (initial_image, "transformer/blocks/c_proj/bias", (4 * WIDTH) ** -0.5),
        (initial_text, "transformer/blocks/c_fc/bias", WIDTH**-0.5),
        (initial_text, "transformer/blocks/c_proj/bias", (4 * WIDTH) ** -0.5),
    ],
)
def test_pytorch_defaults_start_uniform(tower, path, bound):
    found = leaf(tower(), path)
    assert 0.98 * bound < np.abs(found).max() <= bound
    assert found.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("tower", [initial_text, initial_image])
def test_layers_start_different_and_norms_and_biases_at_one_and_zero(tower):
    blocks = tower()["transformer"]["blocks"]
    for name in ("in_proj", "out_proj"):
        np.testing.assert_array_equal(blocks["attn"][name]["bias"], 0)
        kernel = blocks["attn"][name]["kernel"]
        assert kernel.shape[0] == LAYERS
        assert not np.allclose(kernel[0], kernel[1])
    for name in ("ln_1", "ln_2"):
        np.testing.assert_array_equal(blocks[name]["scale"], 1)
        np.testing.assert_array_equal(blocks[name]["bias"], 0)
