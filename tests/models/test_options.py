"""Options of how towers train and compute: patch dropout, a dtype of one tower, pixel statistics."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.patch_dropout import keep_some
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.transformer import Transformer
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.training.gradcache import make_forward
from rankclip_jax.training.options import StepOptions
from tests.golden import towers as small

pytestmark = pytest.mark.xdist_group("models_options")


def build(case, **changes):
    """Towers of `tests.golden.towers`; `image__pool="map"` changes `image.pool`."""
    config = small.config(case)
    for key, value in changes.items():
        side, name = key.split("__")
        config[side][name] = value
    return build_towers(config, small.VOCAB, small.EOT)


# Patch dropout.


def numbered(rows=5, tokens=17):
    """Tokens that say which row and which place they are of."""
    places = jnp.broadcast_to(jnp.arange(tokens)[None, :, None], (rows, tokens, 1))
    return jnp.concatenate([jnp.broadcast_to(jnp.arange(rows)[:, None, None], places.shape), places], axis=-1)


@pytest.mark.parametrize(("share", "kept"), [(0.5, 8), (0.25, 4), (0.3, 5), (1.0, 16), (0.01, 1)])
def test_a_share_of_the_patches_is_kept_and_the_class_token_always(share, kept):
    found = np.asarray(keep_some(numbered(), share, jax.random.key(0), first=1))
    assert found.shape == (5, 1 + kept, 2)
    for row, (rows, places) in enumerate(found.transpose(0, 2, 1)):
        assert set(rows) == {row} and places[0] == 0
        assert len(set(places[1:])) == kept and set(places[1:]) <= set(range(1, 17))  # none twice


def test_each_row_and_each_key_draws_its_own_and_the_same_again():
    draw = jax.jit(lambda key: keep_some(numbered(), 0.5, key)[..., 1])
    one, again, other = (np.sort(draw(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any(1).all() and len({tuple(row) for row in one}) == 5


def test_every_patch_is_kept_as_often():
    found = np.asarray(keep_some(numbered(4000, 8), 0.25, jax.random.key(0))[..., 1])
    counts = np.bincount(found.ravel(), minlength=8)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def seen(model, case, train):
    """How many tokens each transformer of the towers is given."""
    found, given, params = [], small.inputs(case), small.params(case)

    def watch(call, args, kwargs, context):
        if isinstance(context.module, Transformer):
            found.append(args[0].shape[1])
        return call(*args, **kwargs)

    def run(key):
        return model.apply({"params": params}, INPUTS, given, train, method="compute", rngs={"patch_dropout": key})

    with nn.intercept_methods(watch):
        jax.eval_shape(run, jax.random.key(0))
    return found


INPUTS = ("image_embeds", "text_embeds")


@pytest.mark.parametrize(("case", "first"), [("clip", 1), ("siglip", 0)])
def test_towers_drop_patches_in_training_only(case, first):
    model = build(case, image__patch_dropout=0.75)
    length = small.config(case).text.context_length
    assert seen(model, case, train=True) == [first + 4, length]
    assert seen(model, case, train=False) == [first + 16, length]
    assert seen(build(case), case, train=True) == [first + 16, length]


def test_dropping_patches_that_are_all_alike_changes_nothing():
    """Whole patches go, with their positions: what is left is read as it was. (Pooled without a class token.)"""
    model, params = build("siglip", image__patch_dropout=0.5), small.params("siglip")
    same = params["image"] | {"positional_embedding": np.ones((16, 32), np.float32)}
    params, given = params | {"image": same}, np.full((3, 32, 32, 3), 200, np.uint8)
    compute = jax.jit(
        lambda images, train, key: model.apply(
            {"params": params},
            ("image_embeds",),
            {"images": images},
            train,
            method="compute",
            rngs={"patch_dropout": key},
        )["image_embeds"],
        static_argnums=1,
    )
    key = jax.random.key(0)
    np.testing.assert_allclose(compute(given, True, key), compute(given, False, key), atol=1e-6)
    given = small.inputs("siglip")["images"]
    first, again, other = (np.asarray(compute(given, True, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    whole = build("siglip").apply({"params": params}, given, method="encode_image")
    np.testing.assert_allclose(compute(given, False, key), whole, atol=1e-6)


def test_each_training_step_draws_other_patches():
    """From the config to the forward pass of a step, which depends on nothing but seed and step."""
    config = small.config("clip")
    config.image.patch_dropout = 0.5
    model, batch = build_towers(config, small.VOCAB, small.EOT), small.inputs("clip")
    forward = make_forward(model, ("image_embeds",), make_mesh(jax.devices()[:1]), StepOptions(seed=3))
    params = small.params("clip")
    embed = jax.jit(lambda step: forward(params, {}, batch, step)[0]["image_embeds"])
    first, again, second = (embed(step) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-3


# A dtype of one tower, pixel statistics.


@functools.cache
def embeddings(case, image="", text=""):
    given = small.inputs(case)
    model = build(case, image__dtype=image, text__dtype=text)
    return jax.jit(model.apply)({"params": small.params(case)}, given["images"], given["tokens"])


@pytest.mark.parametrize("case", ["clip", "siglip"])
def test_one_tower_in_bfloat16(case):
    exact, half = embeddings(case), embeddings(case, image="bfloat16")
    np.testing.assert_array_equal(exact["text_embeds"], half["text_embeds"])
    one, other = (np.asarray(embeds["image_embeds"]) for embeds in (exact, half))
    assert other.dtype == np.float32
    assert 1e-4 < np.abs(one - other).max() < 0.1  # it was really computed in bfloat16
    assert np.sum(one * other, axis=1).min() > 0.995


def test_a_towers_own_dtype_overrides_the_shared_one():
    config = get_preset("mu")
    config.dtype, config.text.dtype = "bfloat16", "float32"
    model = build_towers(config, small.VOCAB, small.EOT)
    assert model.image.dtype == model.image_head.dtype == jnp.bfloat16
    assert model.text.dtype == model.text_head.dtype == jnp.float32
    assert isinstance(model.image_head, DistributionHead)
    images, tokens = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.zeros((1, 16), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_pixels_are_normalised_as_the_config_says():
    """SigLIP's statistics map 0 to -1 and 255 to 1; the golden file of `siglip` depends on them, too."""
    config = get_preset("SigLIP-B/16")
    model = build_towers(config, small.VOCAB, small.EOT)
    assert model.pixel_mean == model.pixel_std == (0.5, 0.5, 0.5)
    other = build("siglip", image__pixel_mean=(0.4, 0.5, 0.5))
    found = other.apply({"params": small.params("siglip")}, small.inputs("siglip")["images"], method="encode_image")
    assert np.abs(found - embeddings("siglip")["image_embeds"]).max() > 1e-3
