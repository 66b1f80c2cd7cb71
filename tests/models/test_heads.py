"""Distribution heads: which models have them, their batch norms, and a model with only heads, trained and loaded."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import rankclip_jax
from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.config.base import get_config
from rankclip_jax.errors import UserError
from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.presets import PRESETS, get_preset
from rankclip_jax.models.two_towers import OUTPUTS, TwoTowers, build_towers, distribution_embeds
from rankclip_jax.objectives import Objective
from rankclip_jax.objectives.objective import Term
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.train import train
from rankclip_jax.training import setup
from rankclip_jax.training.step import make_gradients, make_init
from tests.support.objective_checks import build
from tests.training.test_inputs import mu

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("heads")


class Flat(nn.Module):
    """A tower that compiles fast: two linear layers."""

    image_size: int = 8
    context_length: int = 6

    @nn.compact
    def __call__(self, x, with_trunk=False, train=False):
        trunk = nn.Dense(12, name="trunk")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        features = nn.Dense(4, name="proj")(trunk)
        return (features, trunk) if with_trunk else features


def flat_towers(embeds="projection"):
    image_head, text_head = (DistributionHead(prototypes=5, hidden_width=7, hidden_layers=2) for _ in range(2))
    return TwoTowers(Flat(), Flat(), image_head, text_head, embeds)


def flat_batch(rows=6):
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (rows, 8, 8, 3)).astype(np.uint8) for name in ("images", "augmented_images")}
    texts = ("tokens", "caption_tokens", "augmented_tokens")
    return images | {name: rng.integers(0, 9, (rows, 6)).astype(np.int32) for name in texts}


@functools.cache
def flat_variables(inputs=tuple(OUTPUTS)):
    return flat_towers().init(jax.random.key(0), inputs, flat_batch(), method="compute")


def test_each_output_is_its_tower_applied_to_its_input():
    towers, batch, given = flat_towers(), flat_batch(), flat_variables()
    found = towers.apply(given, tuple(OUTPUTS), batch, method="compute")
    assert tuple(sorted(found)) == tuple(sorted(OUTPUTS))
    for name, (tower, key, kind) in OUTPUTS.items():
        if kind == "embeds":
            expected = towers.apply(given, batch[key], method=f"encode_{tower}")
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        else:
            assert found[name].shape == (6, 5) and found[name].dtype == jnp.float32
    pair = towers.apply(given, batch["images"], batch["tokens"])
    assert set(pair) == {"image_embeds", "text_embeds"}
    np.testing.assert_array_equal(pair["text_embeds"], found["text_embeds"])
    assert not np.array_equal(found["image_logits"], found["text_logits"])


def test_heads_exist_only_for_objectives_that_need_them_and_leave_the_towers_unchanged():
    def made(name):
        objective = build(name)
        init = make_init(flat_towers(), objective, setup.make_optimizer(OPTIMIZER, lambda step: 0.1))
        return init(jax.random.key(0))["params"]["towers"]

    clip = made("clip")
    assert set(clip) == {"image", "text"}
    for name in ("alip", "nclip", "xclip"):
        towers = made(name)
        heads = {"image_head", "text_head"} if name != "alip" else set()
        assert set(towers) == {"image", "text"} | heads
        assert tree_digests({side: towers[side] for side in clip}) == tree_digests(clip)
    assert tree_digests(towers["image_head"]) != tree_digests(towers["text_head"])
    assert set(towers["image_head"]) == {"hidden0", "norm0", "hidden1", "norm1", "prototypes", "norm_out"}


OPTIMIZER = get_config("mu").optimizer


def test_both_towers_exist_for_an_objective_that_reads_one():
    term = Term(inputs=("image_logits",), row_loss=lambda block: jnp.sum(block.rows["image_logits"]))
    objective = Objective("one", "", {"one": term}, lambda step: {"one": 1.0})
    init = make_init(flat_towers(), objective, setup.make_optimizer(OPTIMIZER, lambda step: 0.1))
    assert set(jax.eval_shape(init, jax.random.key(0))["params"]["towers"]) == {"image", "text", "image_head"}


@pytest.mark.parametrize(("name", "moves"), [("nclip", False), ("xclip", True)])
def test_gradients_reach_trunk_and_heads_but_the_projection_only_with_clip(name, moves):
    objective, towers = build(name), flat_towers()
    params = {"towers": flat_variables()["params"], "scalars": {key: jnp.float32(2.6) for key in objective.scalars}}
    gradients = make_gradients(towers, objective, make_mesh(jax.devices()[:1]))
    weights = objective.weights(jnp.int32(0))
    state = {"batch_stats": flat_variables()["batch_stats"]}
    found = jax.jit(gradients)(params, flat_batch(), weights, model_state=state).params["towers"]
    for side in ("image", "text"):
        assert np.any(found[side]["trunk"]["kernel"]) and np.any(found[f"{side}_head"]["hidden0"]["kernel"])
        assert np.any(found[side]["proj"]["kernel"]) == moves


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_towers_with_heads(preset):
    towers = build_towers(get_preset(preset), vocab_size=64, eot_id=63)
    side, length = towers.image.image_size, towers.text.context_length
    images, tokens = jnp.zeros((2, side, side, 3), jnp.uint8), jnp.zeros((2, length), jnp.int32)
    init = functools.partial(towers.init, inputs=("image_logits", "text_logits"), method="compute")
    shapes = jax.eval_shape(lambda key: init(key, batch={"images": images, "tokens": tokens}), jax.random.key(0))
    heads = get_preset(preset).heads
    for side in ("image_head", "text_head"):
        found = shapes["params"][side]
        assert found["prototypes"]["kernel"].shape == (heads.hidden_width, heads.prototypes)
        assert len(found) == 2 * heads.hidden_layers + 2


def head_in_numpy(variables, x, train):
    params, running = (jax.tree.map(np.asarray, variables[part]) for part in ("params", "batch_stats"))
    for dense, norm in (("hidden0", "norm0"), ("prototypes", "norm_out")):
        x = x @ np.asarray(params[dense]["kernel"], np.float64)
        mean, var = (x.mean(0), x.var(0)) if train else (running[norm]["mean"], running[norm]["var"])
        x = (x - mean) / np.sqrt(var + 1e-5) * params[norm]["scale"] + params[norm]["bias"]
        if dense == "hidden0":
            x = np.asarray(jax.nn.gelu(jnp.asarray(x, jnp.float32)), np.float64)
    return x


@pytest.mark.parametrize("train", [True, False])
def test_a_head_in_numpy(train):
    head = DistributionHead(prototypes=5, hidden_width=7, hidden_layers=1)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    variables = head.init(jax.random.key(0), x)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, variables)
    found = head.apply(moved, x, train, mutable=["batch_stats"] if train else False)
    np.testing.assert_allclose(found[0] if train else found, head_in_numpy(moved, x, train), rtol=1e-4, atol=1e-5)


def test_similar_rows_get_different_distributions():
    """A new tower's features are similar: without batch normalisation all rows would have the same distribution."""
    rng = np.random.default_rng(0)
    similar = (rng.normal(size=16) + 0.01 * rng.normal(size=(64, 16))).astype(np.float32)
    head = DistributionHead(prototypes=8, hidden_width=16, hidden_layers=1)
    logits, _ = head.apply(head.init(jax.random.key(0), similar), similar, True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.std(np.asarray(logits), axis=0), 1, rtol=0.05)
    assert len(set(np.argmax(np.asarray(logits), axis=1))) == 8


def test_distributions_as_embeddings():
    logits = jnp.float32([[1, 2, 3], [200, -200, 0], [1, 2, 3], [-200, 200, 0]])
    found = np.asarray(distribution_embeds(logits), np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0] ** 2, np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-5)
    cosines = found @ found.T
    assert cosines[0, 2] == pytest.approx(1) and cosines[1, 3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"prototypes": 0, "hidden_width": 8, "hidden_layers": 1}, "model.heads.prototypes=0 must be at least 1"),
        ({"prototypes": 8, "hidden_width": 8}, "model.heads needs hidden_layers: add it"),
        ({"prototype": 8}, r"unknown key of model.heads: 'prototype'. Did you mean 'prototypes'\?"),
    ],
)
def test_invalid_heads(heads, message):
    config = get_preset("mu")
    config.heads = ConfigDict(heads)
    with pytest.raises(UserError, match=message):
        build_towers(config, 64, 63)


def test_terms_added_to_another_objective_add_their_heads():
    parts = setup.build(mu("clip", extra="0.1 nclip_cross_entropy + 0.1 nclip_smoothness"))
    assert parts.config.model.embeds == "projection"
    init = make_init(parts.towers, parts.objective, parts.optimizer)
    assert "image_head" in jax.eval_shape(init, jax.random.key(0))["params"]["towers"]


@pytest.mark.slow
def test_nclip_is_trained_evaluated_reported_and_loaded(tmp_path):
    config = mu("nclip")
    config.model.image = get_preset("emoji").image
    config.model.image.update({"image_size": 32, "widths": (8,), "depths": (0,)})
    config.model.text.layers, config.eval.metrics, config.eval.report_split = 1, ("retrieval",), "val"
    config.eval.train_splits, config.checkpoint.best_metric, config.checkpoint.every = (), "", "2 steps"
    config.log.diagnostics = config.log.tensorboard = False
    train(config, str(tmp_path))
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["model"]["embeds"] == "distribution"
    metrics = json.loads((tmp_path / "eval.json").read_text())["metrics"]
    assert 0 <= metrics["test_style/image_to_text_R@1"] <= 1
    assert (tmp_path / "report.html").stat().st_size > 10_000
    encoder = rankclip_jax.load(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    for embeds in (encoder.encode_image(images), encoder.encode_text(["fox", "the moon", "a boat"])):
        assert embeds.shape == (3, 32)  # the number of prototypes
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
        assert np.all(embeds >= 0)
