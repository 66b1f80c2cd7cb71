"""The moving average of the weights: against a hand-written loop, in checkpoints, in evaluation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import emoji
from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.weights import load_model
from rankclip_jax.errors import UserError
from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.training import setup
from rankclip_jax.training.loop import make_encoder
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import abstract_state, create_state, jit_train_step, make_init, make_train_step
from tests.support.objective_checks import build

pytestmark = pytest.mark.xdist_group("ema")
STEPS = 12


class Tower(nn.Module):
    """Compiles at once, and has running statistics."""

    image_size: int = 4
    context_length: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5)(x.reshape(x.shape[0], -1).astype(jnp.float32))
        return BatchNorm(name="bn")(x, train)


TOWERS, OBJECTIVE, OPTIMIZER = TwoTowers(Tower(), Tower()), build("clip"), optax.sgd(0.3)
MESH = make_mesh(jax.devices()[:1])


def abstract(decay):
    return abstract_state(make_init(TOWERS, OBJECTIVE, OPTIMIZER, decay), jax.random.key(0), MESH)


@functools.cache
def run(decay, steps=STEPS):
    """The model at the start and after each step, and the last state; models are copied: states are donated."""
    state = create_state(make_init(TOWERS, OBJECTIVE, OPTIMIZER, decay), jax.random.key(0), MESH)
    options = StepOptions(ema_decay=decay)
    step = jit_train_step(make_train_step(TOWERS, OBJECTIVE, OPTIMIZER, MESH, options), state, MESH)
    rng = np.random.default_rng(0)
    models = [model_of(state)]
    for _ in range(steps):
        batch = {
            "images": rng.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8),
            "tokens": rng.integers(0, 9, (8, 6)).astype(np.int32),
        }
        state, _ = step(state, batch)
        models.append(model_of(state))
    return models, state


def model_of(state):
    return jax.tree.map(np.array, {name: state[name] for name in ("params", "model_state")})


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_against_a_hand_written_loop(decay):
    models, state = run(decay)
    average = jax.tree.map(np.float64, models[0])
    for t, model in enumerate(models[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda old, new, d=d: d * old + (1 - d) * new, average, model)
    found = state["ema"]
    assert jax.tree.structure(found) == jax.tree.structure(average)
    for a, b in zip(*map(jax.tree.leaves, (average, found)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    kernel = lambda model: model["params"]["towers"]["image"]["Dense_0"]["kernel"]  # noqa: E731
    assert not any(np.allclose(kernel(found), kernel(model), rtol=1e-3) for model in (models[0], models[-1]))


def test_training_is_the_same_with_and_without_an_average():
    with_average, without = run(0.9)[1], run(0.0)[1]
    assert without["ema"] == {}
    rest = ("step", "params", "opt_state", "objective", "model_state")
    assert all(tree_digests(with_average[name]) == tree_digests(without[name]) for name in rest)


class Parts:
    """The parts of a run that an encoder needs."""

    towers, mesh, tokenizer = TOWERS, MESH, None


def test_the_average_is_evaluated_where_there_is_one():
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    models, state = run(0.9)
    encoder = make_encoder(Parts, state)
    averaged = encoder.encode_image(images)
    variables = {"params": state["ema"]["params"]["towers"], **state["ema"]["model_state"]}
    np.testing.assert_allclose(averaged, Parts.towers.apply(variables, images, method="encode_image"), atol=1e-6)
    plain = make_encoder(Parts, models[-1] | {"ema": {}}, encoder)
    assert plain is encoder
    variables = {"params": models[-1]["params"]["towers"], **models[-1]["model_state"]}
    expected = Parts.towers.apply(variables, images, method="encode_image")
    np.testing.assert_allclose(plain.encode_image(images), expected, atol=1e-6)
    assert encoder._image._cache_size() == 1  # a later evaluation compiles nothing
    assert np.abs(averaged - expected).max() > 1e-3


def test_checkpoints_hold_both_and_the_average_is_loaded(tmp_path):
    _, state = run(0.9)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(3, state)
    restored = checkpoints.restore(abstract(0.9))
    assert tree_digests(restored.state) == tree_digests(state)
    model, _ = load_model(str(tmp_path))
    assert tree_digests(model._asdict()) == tree_digests(state["ema"]) != tree_digests(model_of(state))
    checkpoints.close()


def test_without_an_average_the_last_weights_are_loaded(tmp_path):
    _, state = run(0.0)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(3, state)
    checkpoints.close()
    model, _ = load_model(str(tmp_path))
    assert tree_digests(model._asdict()) == tree_digests(model_of(state))
    with pytest.raises(UserError, match=r"of another model or optimizer \(saved -> wanted\): ema/.* absent -> float32"):
        Checkpoints(str(tmp_path)).restore(abstract(0.9))


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0, float("nan")])
def test_an_invalid_decay_is_rejected(decay):
    config = emoji.get_config("mu")
    config.optimizer.ema_decay = decay
    with pytest.raises(UserError, match=r"config\.optimizer\.ema_decay=.* must be at least 0 \(no average\) and less"):
        setup.check_step(config, MESH)
