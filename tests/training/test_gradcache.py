"""GradCache: the gradient of one pass, replayed random numbers, the memory of a micro-batch, any devices."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji
from rankclip_jax.errors import UserError
from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.parallel.mesh import make_mesh, put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.diagnostics import make_diagnostics
from rankclip_jax.training.gradcache import check_micro_batches, join, make_forward, split
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import make_gradients
from tests.support import processes
from tests.support.objective_checks import build

pytestmark = pytest.mark.xdist_group("micro_batches")  # functions compiled once
BATCH = 32
PAIR = ("image_embeds", "text_embeds")


class Tower(nn.Module):
    """Compiles fast; may normalise over the batch, and drop activations."""

    norm: bool = False
    dropout: bool = False
    hidden: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.gelu(nn.Dense(self.hidden)(x.reshape(x.shape[0], -1).astype(jnp.float32) / 8))
        if self.dropout and train:
            x = x * jax.random.bernoulli(self.make_rng("patch_dropout"), 0.5, x.shape)
        return nn.Dense(6)(BatchNorm(name="bn")(x, train) if self.norm else x)


@functools.cache
def inputs(**options):
    """Towers, their parameters and other variables, and a batch."""
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (BATCH, 4, 4, 3)).astype(np.uint8),
        "tokens": rng.integers(0, 9, (BATCH, 6)).astype(np.int32),
        "caption_tokens": rng.integers(0, 9, (BATCH, 6)).astype(np.int32),
    }
    towers = TwoTowers(Tower(**options), Tower())
    state = dict(towers.init(jax.random.key(0), batch["images"], batch["tokens"]))
    return towers, state.pop("params"), state, batch


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def distance(expected, found) -> float:
    expected, found = flat(expected), flat(found)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@functools.cache
def gradient(name, micro_batches, devices=1):
    """Loss and gradient of an objective."""
    towers, params, _, batch = inputs()
    objective, mesh = build(name), make_mesh(jax.devices()[:devices])
    state = {"towers": params, "scalars": {key: jnp.float32(2.6) for key in objective.scalars}}
    gradients = jax.jit(make_gradients(towers, objective, mesh, StepOptions(micro_batches=micro_batches)))
    weights = dict.fromkeys(objective.terms, jnp.float32(1.5))
    found = gradients(state, put_batch(batch, mesh), weights, objective.initial_state())
    return {"loss": float(found.result.loss), "gradient": flat(found.params).tolist()}


# Exactness.


@pytest.mark.parametrize(("name", "micro_batches"), [("rankclip", 8), ("alip", 2)])
def test_the_gradient_is_that_of_one_pass(name, micro_batches):
    expected, found = gradient(name, 1), gradient(name, micro_batches)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert distance(expected["gradient"], found["gradient"]) < 1e-5
    assert np.linalg.norm(expected["gradient"]) > 0.01


ON_EIGHT = """
import json, sys
from tests.training import test_gradcache as t
found = {name: t.gradient(name, 4, devices=8) for name in ("rankclip", "alip")}
print(json.dumps(found | {"collectives": t.collectives_of_split()}))
"""


def collectives_of_split():
    """Collectives in the program that splits and joins a batch over all devices."""
    mesh = make_mesh()
    batch = put_batch({"x": np.arange(64.0, dtype=np.float32).reshape(64, 1)}, mesh)
    compiled = jax.jit(lambda x: join(jax.tree.map(jnp.sin, split(x, 4, mesh)), mesh)).lower(batch).compile()
    np.testing.assert_allclose(compiled(batch)["x"], np.sin(np.arange(64))[:, None], rtol=1e-5, atol=1e-6)
    return [
        name for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce") if name in compiled.as_text()
    ]


def test_eight_devices():
    code, out, err = processes.run(ON_EIGHT, devices=8, seconds=120)
    assert code == 0, err
    found = json.loads(out)
    assert found.pop("collectives") == []  # each device splits its own rows
    for name, value in found.items():
        expected = gradient(name, 1)
        assert value["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert distance(expected["gradient"], value["gradient"]) < 1e-5


def test_rows_go_to_the_parts_in_turn():
    mesh = make_mesh(jax.devices()[:1])
    batch = {"x": jnp.arange(12), "y": jnp.arange(24).reshape(12, 2)}
    parts = split(batch, 3, mesh)
    np.testing.assert_array_equal(parts["x"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    assert parts["y"].shape == (3, 4, 2)
    for name, value in join(parts, mesh).items():
        np.testing.assert_array_equal(value, batch[name])


# Towers with randomness or batch statistics, which could differ between the two passes.


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("options", [{"dropout": True}, {"norm": True}])
def test_the_second_pass_is_the_derivative_of_the_first(micro_batches, options):
    towers, params, state, batch = inputs(**options)
    forward = make_forward(towers, PAIR, make_mesh(jax.devices()[:1]), StepOptions(micro_batches=micro_batches, seed=3))
    rng = np.random.default_rng(1)
    d_embeds = {name: jnp.float32(rng.normal(size=(BATCH, 6))) for name in PAIR}

    def loss(params):
        embeds = forward(params, state, batch, 5)[0]
        return sum(jnp.sum(embeds[name] * d_embeds[name]) for name in PAIR)

    found = jax.jit(lambda params: forward(params, state, batch, 5)[2](d_embeds))(params)
    assert distance(jax.jit(jax.grad(loss))(params), found) < 1e-5


def test_random_numbers_follow_from_seed_step_and_micro_batch():
    towers, params, _, batch = inputs(dropout=True)
    alike = batch | {"images": np.broadcast_to(batch["images"][:1], batch["images"].shape)}
    mesh = make_mesh(jax.devices()[:1])

    def rows(seed, step, micro_batches=4):
        forward = make_forward(towers, ("image_embeds",), mesh, StepOptions(micro_batches=micro_batches, seed=seed))
        return np.asarray(forward(params, {}, alike, step)[0]["image_embeds"])

    first = rows(0, 1)
    assert len(np.unique(first, axis=0)) > BATCH - 2  # each row of each micro-batch has its own
    np.testing.assert_array_equal(first, rows(0, 1))
    for other in (rows(1, 1), rows(0, 2), rows(0, 1, micro_batches=1)):
        assert not np.any(np.all(first == other, axis=1))


def test_statistics_are_those_of_a_micro_batch_and_running_ones_move_once():
    towers, params, state, batch = inputs(norm=True)
    mesh = make_mesh(jax.devices()[:1])
    embeds, moved, _ = make_forward(towers, PAIR, mesh, StepOptions(micro_batches=4))(params, state, batch, 0)
    alone = make_forward(towers, PAIR, mesh)
    parts = [alone(params, state, {name: x[i::4] for name, x in batch.items()}, 0) for i in range(4)]
    for i, (expected, _, _) in enumerate(parts):
        np.testing.assert_allclose(embeds["image_embeds"][i::4], expected["image_embeds"], atol=1e-6)
    for name, value in moved["batch_stats"]["image"]["bn"].items():
        expected = np.mean([part[1]["batch_stats"]["image"]["bn"][name] for part in parts], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    assert distance(alone(params, state, batch, 0)[0], embeds) > 1e-3  # the whole batch has others


def test_diagnostics_see_the_embeddings_of_the_step():
    towers, params, state, batch = inputs(norm=True)
    objective, mesh = build("rankclip"), make_mesh(jax.devices()[:1])
    params = {"towers": params, "scalars": {"logit_scale": jnp.float32(2.6)}}
    weights = dict.fromkeys(objective.terms, jnp.float32(1))
    given, options = (params, batch, weights, {}, 0, state), StepOptions(micro_batches=4)
    terms = jax.jit(make_gradients(towers, objective, mesh, options))(*given).result.terms
    found = jax.jit(make_diagnostics(towers, objective, mesh, options))(*given)
    whole = jax.jit(make_diagnostics(towers, objective, mesh))(*given)
    for name, value in terms.items():
        assert float(found[f"loss_{name}"]) == pytest.approx(float(value), rel=1e-5)
        assert float(whole[f"loss_{name}"]) != pytest.approx(float(value), rel=1e-5)


# Memory.


def test_memory_is_that_of_a_micro_batch():
    towers, params, _, batch = inputs(hidden=4096)

    def temporaries(micro_batches):
        options = StepOptions(micro_batches=micro_batches)
        forward = make_forward(towers, PAIR, make_mesh(jax.devices()[:1]), options)

        def step(params):
            embeds, _, pull_back = forward(params, {}, batch, 0)
            return pull_back(jax.tree.map(jnp.cos, embeds))

        return jax.jit(step).lower(params).compile().memory_analysis().temp_size_in_bytes

    parameters = 4 * flat(params).size
    assert temporaries(8) - parameters < 0.4 * temporaries(1)


@pytest.mark.parametrize("micro_batches", [0, -1, 3, 32])
def test_a_number_that_does_not_divide_is_rejected(micro_batches):
    message = (
        rf"config\.micro_batches={micro_batches} does not divide the 16 rows of one device: use one of 1, 2, 4, 8, 16\."
    )
    with pytest.raises(UserError, match=message):
        check_micro_batches(micro_batches, 16)


def test_it_is_rejected_before_parameters_exist():
    config = emoji.get_config("mu")
    config.micro_batches = 3
    with pytest.raises(UserError, match=r"config\.micro_batches=3 does not divide the 32 rows"):
        setup.check_step(config, make_mesh(jax.devices()[:1]))
