"""Towers that are frozen as a whole: they run as in evaluation, and keep their running statistics."""

import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji
from rankclip_jax.config import base
from rankclip_jax.errors import UserError
from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.training import setup
from rankclip_jax.training.diagnostics import along_the_sphere
from rankclip_jax.training.gradcache import make_forward
from rankclip_jax.training.optimizer import frozen_mask
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import create_state, make_init

pytestmark = pytest.mark.xdist_group("locked")
BATCH = 8
LIT = "towers/image/.*"
INPUTS = ("image_embeds", "text_embeds", "image_logits")


class Tower(nn.Module):
    """Compiles fast; normalises over the batch."""

    image_size: int = 8
    context_length: int = 6

    @nn.compact
    def __call__(self, x, with_trunk=False, train=False):
        x = nn.Dense(5, name="trunk")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        x = nn.relu(BatchNorm(name="bn")(x, train))
        features = nn.Dense(4, name="proj")(x)
        return (features, x) if with_trunk else features


TOWERS = TwoTowers(Tower(), Tower(), DistributionHead(3, 4, 1), DistributionHead(3, 4, 1))


def batch():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (BATCH, 8, 8, 3)).astype(np.uint8)
    return {"images": images, "tokens": draw.integers(0, 9, (BATCH, 6)).astype(np.int32)}


@functools.cache
def parts(freeze, micro_batches=1):
    """What `train` builds from a config, with towers that compile fast."""
    config = emoji.get_config("mu,clip")
    config.batch_size, config.duration, config.data.train_limit = BATCH, "2 steps", 32
    config.optimizer.warmup, config.optimizer.freeze, config.micro_batches = "0 steps", freeze, micro_batches
    with mock.patch.object(setup, "build_towers", lambda *_: TOWERS):
        return setup.build(config)


def started(freeze, micro_batches=1):
    made = parts(freeze, micro_batches)
    state = create_state(make_init(made.towers, made.objective, made.optimizer), jax.random.key(0), made.mesh)
    rng = np.random.default_rng(7)  # statistics that no batch has
    state["model_state"] = jax.tree.map(lambda x: jnp.asarray(1 + rng.random(x.shape), x.dtype), state["model_state"])
    return state


@functools.cache
def moved(freeze, micro_batches=1):
    """Towers and heads whose running statistics change in training."""
    state = started(freeze, micro_batches)
    before = jax.tree.map(np.array, state["model_state"]["batch_stats"])
    step = setup.train_step(parts(freeze, micro_batches), state)
    state, _ = step(state, batch())
    after = jax.tree.map(np.array, state["model_state"]["batch_stats"])
    return {
        part
        for part in before
        if any(
            a.tobytes() != b.tobytes() for a, b in zip(*map(jax.tree.leaves, (before[part], after[part])), strict=True)
        )
    }


@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_locked_tower_keeps_its_running_statistics(micro_batches):
    assert moved("", micro_batches) == {"image", "text"}
    assert moved(LIT, micro_batches) == {"text"}
    assert moved("towers/(image|text)/.*", micro_batches) == set()


def test_a_partly_frozen_tower_runs_as_in_training():
    assert moved("towers/image/(?!trunk/kernel).*") == {"image", "text"}


def forward(freeze):
    """Embeddings and next state of a training step."""
    state = started("")
    params = {"towers": TOWERS.init(jax.random.key(1), INPUTS, batch(), method="compute")["params"], "scalars": {}}
    run = make_forward(TOWERS, INPUTS, parts("").mesh, StepOptions(frozen=frozen_mask(params, freeze)))
    variables = TOWERS.init(jax.random.key(1), INPUTS, batch(), method="compute")
    statistics = state["model_state"]["batch_stats"] | {
        "image_head": jax.tree.map(lambda x: x + 0.5, variables["batch_stats"]["image_head"])
    }
    model_state = {"batch_stats": statistics}
    embeds, new, _ = run(params["towers"], model_state, batch(), 0)
    evaluated = TOWERS.apply({"params": params["towers"], **model_state}, INPUTS, batch(), method="compute")
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), model_state, new)["batch_stats"]
    return embeds, evaluated, {part for part, leaves in changed.items() if any(jax.tree.leaves(leaves))}


def test_a_locked_tower_runs_as_in_evaluation():
    embeds, evaluated, _ = forward(LIT)
    np.testing.assert_allclose(embeds["image_embeds"], evaluated["image_embeds"], atol=1e-6)
    assert np.abs(embeds["text_embeds"] - evaluated["text_embeds"]).max() > 0.01
    embeds, evaluated, _ = forward("")
    assert np.abs(embeds["image_embeds"] - evaluated["image_embeds"]).max() > 0.01


def test_a_head_is_locked_apart_from_its_tower():
    embeds, evaluated, changed = forward(LIT)
    assert changed == {"text", "image_head"}
    assert np.abs(embeds["image_logits"] - evaluated["image_logits"]).max() > 0.01
    embeds, evaluated, changed = forward("towers/image.*/.*")
    assert changed == {"text"}
    np.testing.assert_allclose(embeds["image_logits"], evaluated["image_logits"], atol=1e-6)


def diagnosed(freeze):
    return setup.diagnostics(parts(freeze))(started(freeze), batch())


def by_hand(freeze):
    """The gradient of CLIP's term with respect to each side's embeddings, as the step sees them."""
    made, state = parts(freeze), started(freeze)
    run = make_forward(made.towers, made.objective.inputs, made.mesh, made.step_options)
    embeds, _, _ = run(state["params"]["towers"], state["model_state"], batch(), 0)
    weights = {name: jnp.float32(name == "clip") for name in made.objective.terms}
    result = loss_and_gradients(made.objective, made.mesh)(embeds, state["params"]["scalars"], weights)
    return result, {name: float(jnp.linalg.norm(d)) for name, d in along_the_sphere(result.d_embeds, embeds).items()}


def test_diagnostics_see_the_embeddings_and_gradients_of_the_step():
    for freeze in ("", LIT):
        found, (result, norms) = diagnosed(freeze), by_hand(freeze)
        expected = norms["text_embeds"] if freeze else np.hypot(norms["image_embeds"], norms["text_embeds"])
        assert float(found["diagnostics/grad_norm_clip"]) == pytest.approx(expected, rel=1e-4)
        assert float(found["diagnostics/loss_clip"]) == pytest.approx(float(result.loss), rel=1e-5)
    assert norms["image_embeds"] > 1e-3


def test_gradients_are_zero_where_both_towers_are_locked():
    found = diagnosed("towers/.*")
    assert float(found["diagnostics/grad_norm_clip"]) == 0.0 and float(found["diagnostics/loss_clip"]) > 0


def test_a_locked_tower_drops_no_patches():
    config = base.get_config("mu")
    config.tokenizer = {"name": "bpe", "vocab_size": 300}
    config.batch_size, config.duration, config.data.train_limit = 8, "2 steps", 16
    config.optimizer.freeze, config.model.image.patch_dropout = LIT, 0.5
    with pytest.raises(UserError, match=r"locks the image tower, which then drops no patches: set .*patch_dropout=0"):
        setup.build(config)
    config.optimizer.freeze = "towers/image/conv1/.*"
    assert setup.build(config).towers.image.patch_dropout == 0.5
