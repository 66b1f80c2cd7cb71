"""Towers: values compared with numpy, which tokens a text sees, precision, rematerialisation, sizes."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD
from rankclip_jax.models.presets import PRESETS, get_preset
from rankclip_jax.models.transformer import ACTIVATIONS, Block, layer_norm, quick_gelu, text_block_init
from rankclip_jax.models.two_towers import TwoTowers, build_towers, unit_norm
from rankclip_jax.models.vit import VisionTransformer

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("models")

VOCAB, EOT = 64, 63


def build(preset="mu", vocab_size=VOCAB, eot_id=EOT, **changes):
    """Towers of a preset; `text__layers=3` changes `text.layers`."""
    config = get_preset(preset)
    for key, value in changes.items():
        *section, name = key.split("__")
        (config[section[0]] if section else config)[name] = value
    return build_towers(config, vocab_size, eot_id)


def inputs(towers, batch=3, seed=0):
    """Random images, and texts of different lengths."""
    rng = np.random.default_rng(seed)
    side, length = towers.image.image_size, towers.text.context_length
    tokens = rng.integers(1, VOCAB - 2, (batch, length)).astype(np.int32)
    for row, end in enumerate(rng.integers(2, length, batch)):
        tokens[row, end], tokens[row, end + 1 :] = EOT, 0
    return rng.integers(0, 256, (batch, side, side, 3)).astype(np.uint8), tokens


def init(towers, seed=0):
    images, tokens = inputs(towers, 1)
    return jax.jit(towers.init)(jax.random.key(seed), images, tokens)["params"]


@functools.cache
def mu():
    towers = build()
    return towers, init(towers)


def abstract_params(towers):
    images, tokens = inputs(towers, 1)
    return jax.eval_shape(towers.init, jax.random.key(0), images, tokens)["params"]


# Values.


def test_activations():
    x = np.float32([-30.0, -1.5, -0.2, 0.0, 0.7, 4.0])
    expected = [v / (1 + math.exp(-1.702 * v)) for v in x.tolist()]
    np.testing.assert_allclose(quick_gelu(x), expected, rtol=1e-6, atol=1e-7)
    expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_equals_pytorchs(dtype):
    """eps 1e-5 inside the root, and a variance that is exact for a large mean, in every dtype of the towers."""
    rng = np.random.default_rng(0)
    x = np.concatenate([1e-3 * rng.normal(size=(1, 64)), 300 + rng.normal(size=(1, 64)), rng.normal(size=(1, 64))])
    x = np.asarray(jnp.asarray(x, dtype).astype(jnp.float32), np.float64)  # rounded to the dtype
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    norm = layer_norm("norm", dtype)
    found = norm.apply(norm.init(jax.random.key(0), jnp.zeros((1, 64))), jnp.asarray(x, dtype))
    assert found.dtype == dtype
    tolerance = 1e-4 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance, atol=tolerance)


def norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def block_in_numpy(params, x, heads, causal):
    """A pre-norm block with QuickGELU in float64, written from CLIP's description."""
    tokens, width = x.shape
    queries, keys, values = np.split(dense(params["attn"]["in_proj"], norm(params["ln_1"], x)), 3, axis=1)
    mixed = []
    for head in np.split(np.arange(width), heads):
        scores = queries[:, head] @ keys[:, head].T / math.sqrt(width / heads)
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf) if causal else scores
        exps = np.exp(scores - scores.max(1, keepdims=True))
        mixed.append(exps / exps.sum(1, keepdims=True) @ values[:, head])
    x = x + dense(params["attn"]["out_proj"], np.concatenate(mixed, axis=1))
    hidden = dense(params["c_fc"], norm(params["ln_2"], x))
    return x + dense(params["c_proj"], hidden / (1 + np.exp(-1.702 * hidden)))


def shaken(params, size):
    """Weights with noise: attention is far from uniform, and biases and scales have an effect."""
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + np.float32(size) * noise.normal(size=p.shape).astype(np.float32), params)


@pytest.mark.parametrize("causal", [False, True])
def test_block_equals_numpy(causal):
    block = Block(4, causal, "quick_gelu", text_block_init(32, 2), jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, 9, 32)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(1), x)["params"]
    params = shaken(params, 0.3)
    found, _ = jax.jit(block.apply)({"params": params}, x)
    expected = block_in_numpy(float64(params), x[0].astype(np.float64), 4, causal)
    np.testing.assert_allclose(found[0], expected, rtol=2e-4, atol=2e-4)


def test_image_tower_equals_numpy():
    """Patches are in row order after the class token, whose output is projected."""
    tower, heads = VisionTransformer(8, 4, width=16, layers=2, heads=2, embed_dim=6), 2
    image = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    params = shaken(jax.jit(tower.init)(jax.random.key(0), image[None])["params"], 0.2)
    p = float64(params)
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    patches = [np.tensordot(image[i : i + 4, j : j + 4], p["conv1"]["kernel"], axes=3) for i, j in corners]
    x = norm(p["ln_pre"], np.stack([p["class_embedding"], *patches]) + p["positional_embedding"])
    leaves, structure = jax.tree.flatten(p["transformer"]["blocks"])
    for of_layer in zip(*leaves, strict=True):
        x = block_in_numpy(jax.tree.unflatten(structure, of_layer), x, heads, causal=False)
    found = jax.jit(tower.apply)({"params": params}, image[None])
    np.testing.assert_allclose(found[0], norm(p["ln_post"], x[0]) @ p["proj"], rtol=2e-4, atol=2e-4)


def test_unit_norm():
    rows = np.float32([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0], [1e15, -1e15]])
    found = unit_norm(rows)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0], [half, -half]], rtol=1e-6)
    assert unit_norm(rows.astype(jnp.bfloat16)).dtype == jnp.float32


def test_unit_norm_of_zeros_has_a_finite_gradient():
    gradient = jax.grad(lambda rows: unit_norm(rows)[:, 0].sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


class Pixels(nn.Module):
    """An image tower that returns its input."""

    @nn.compact
    def __call__(self, images, train=False):
        del train
        return images.reshape(images.shape[0], -1)


def test_images_are_normalised_like_clips():
    image = np.uint8([[[[0, 128, 255]]]])
    towers = TwoTowers(image=Pixels(), text=Pixels())
    found = towers.apply({}, image, method="encode_image")
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), PIXEL_MEAN, PIXEL_STD, strict=True)]
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), rtol=1e-5)


# Which tokens a text sees.


@functools.cache
def encode_text():
    towers, params = mu()
    encode = jax.jit(lambda tokens: towers.apply({"params": params}, tokens, method="encode_text"))
    return lambda *texts: np.asarray(encode(np.int32([[*text, *[0] * (16 - len(text))] for text in texts])))


def test_tokens_after_the_end_of_text_have_no_effect():
    plain, padded, second_end = encode_text()((62, 5, 6, EOT), (62, 5, 6, EOT, 9, 0, 9), (62, 5, 6, EOT, EOT, 7, EOT))
    np.testing.assert_array_equal(plain, padded)
    np.testing.assert_array_equal(plain, second_end)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_token_before_the_end_of_text_has_an_effect(position):
    text = [62, 5, 6, EOT]
    changed = [*text]
    changed[position] = 9
    plain, other = encode_text()(text, changed)
    assert np.abs(plain - other).max() > 1e-3


def test_order_matters_and_the_end_of_text_may_be_the_last_token():
    forward, backward, full = encode_text()((62, 5, 6, EOT), (62, 6, 5, EOT), (62, *[5] * 14, EOT))
    assert np.abs(forward - backward).max() > 1e-3
    assert np.abs(forward - full).max() > 1e-3


@functools.cache
def embeddings_of_eight():
    towers, params = mu()
    return jax.jit(towers.apply)({"params": params}, *inputs(towers, 8))


# Precision, rematerialisation, sizes.


def test_bfloat16_towers_keep_parameters_and_embeddings_in_float32():
    towers, params = mu()
    half = build(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(half))} == {jnp.dtype("float32")}
    exact, rough = embeddings_of_eight(), jax.jit(half.apply)({"params": params}, *inputs(towers, 8))
    assert set(rough) == {"image_embeds", "text_embeds"}
    for name, rows in rough.items():
        assert rows.shape == (8, 16) and rows.dtype == exact[name].dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
        cosines = np.sum(np.asarray(rows) * np.asarray(exact[name]), axis=1)
        assert cosines.min() > 0.995
        assert np.abs(rows - exact[name]).max() > 1e-4  # bfloat16 was really used


@functools.cache
def gradient_with_remat(remat):
    """The gradient with respect to the parameters of mu, and the bytes of temporary memory of its computation."""
    plain, params = mu()
    towers = build(image__remat=remat, text__remat=remat)
    given = inputs(plain, 32)
    score = jax.grad(lambda p: sum(rows[:, 0].sum() for rows in towers.apply({"params": p}, *given).values()))
    compiled = jax.jit(score).lower(params).compile()
    return compiled(params), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("remat", [pytest.param("block", marks=pytest.mark.slow), "dots"])
def test_remat_changes_no_gradient(remat):
    (expected, _), (found, _) = gradient_with_remat("none"), gradient_with_remat(remat)
    for path, leaf in jax.tree.leaves_with_path(expected):
        # Every leaf has a gradient.
        assert np.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)
    difference = jax.tree.map(jnp.subtract, found, expected)
    assert optax.tree.norm(difference) <= 1e-6 * optax.tree.norm(expected)


def test_remat_saves_memory():
    none, dots, block = (gradient_with_remat(remat)[1] for remat in ("none", "dots", "block"))
    assert block < 0.9 * dots and dots < 0.9 * none


def test_sizes_are_free():
    towers = build(vocab_size=100, eot_id=7, text__context_length=9, image__image_size=48, embed_dim=10)
    params = abstract_params(towers)
    assert params["text"]["token_embedding"].shape == (100, 32)
    assert params["text"]["positional_embedding"].shape == (9, 32)
    assert params["image"]["positional_embedding"].shape == (1 + 3 * 3, 32)
    assert params["image"]["proj"].shape == (32, 10)


def test_activation_reaches_the_blocks():
    quick, params = mu()
    exact = build(image__activation="gelu", text__activation="gelu")
    given = inputs(quick, 8)
    other = jax.jit(exact.apply)({"params": params}, *given)
    for name, rows in embeddings_of_eight().items():
        assert 1e-5 < np.abs(rows - other[name]).max() < 0.1


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build(name):
    towers = build(name, vocab_size=49_408, eot_id=49_407)
    images, tokens = inputs(towers, 2)
    shapes = jax.eval_shape(lambda: towers.init_with_output(jax.random.key(0), images, tokens)[0])
    assert {rows.shape for rows in shapes.values()} == {(2, PRESETS[name][0])}


# Counts of transformers' models, without the logit scale (and SigLIP's bias), which belong to the objective.
@pytest.mark.parametrize(
    ("name", "vocab_size", "parameters"),
    [
        ("ViT-S/16", 49_408, 62_257_537 - 1),
        ("ViT-B/32", 49_408, 151_277_313 - 1),
        ("ViT-B/16", 49_408, 149_620_737 - 1),
        ("ViT-L/14", 49_408, 427_616_513 - 1),
        ("ViT-L/14-336", 49_408, 427_944_193 - 1),
        ("ViT-H/14", 49_408, 986_109_441 - 1),
        ("SigLIP-B/16", 32_000, 203_155_970 - 2),
    ],
)
def test_presets_have_the_number_of_parameters_of_the_published_models(name, vocab_size, parameters):
    assert count(abstract_params(build(name, vocab_size=vocab_size, eot_id=vocab_size - 1))) == parameters
