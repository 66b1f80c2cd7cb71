"""Frozen parameters: which ones, that not a bit of them changes, that they have no moments, and what is refused."""

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
from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.training import setup
from rankclip_jax.training.optimizer import frozen_mask, make_optimizer
from rankclip_jax.training.startup_card import start_up_card
from rankclip_jax.training.step import (
    abstract_state,
    create_state,
    jit_train_step,
    make_gradients,
    make_init,
    make_train_step,
)
from tests.golden import towers as small

pytestmark = pytest.mark.xdist_group("freeze")
STEPS = 3
LIT = "towers/image/.*"


class Tower(nn.Module):
    """Compiles at once: two maps and a norm."""

    image_size: int = 8
    context_length: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, name="trunk")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        return nn.Dense(4, name="proj")(nn.LayerNorm(name="ln")(x))


@functools.cache
def parts(freeze, clip_norm=0.0):
    """What `train` builds from a config, with towers that compile at once."""
    config = emoji.get_config("mu,clip")
    config.batch_size, config.duration, config.data.train_limit = 8, f"{STEPS} steps", 32
    config.optimizer.warmup, config.optimizer.weight_decay = "0 steps", 0.5
    config.optimizer.freeze, config.optimizer.clip_norm = freeze, clip_norm
    return setup.build(config)._replace(towers=TwoTowers(image=Tower(), text=Tower()))


def initial(freeze):
    made = parts(freeze)
    init = make_init(made.towers, made.objective, made.optimizer)
    return init, create_state(init, jax.random.key(0), made.mesh)


@functools.cache
def trained(freeze):
    """Parameters before and after some steps, and the last state. One frozen weight starts as -0."""
    made, (_, state) = parts(freeze), initial(freeze)
    kernel = state["params"]["towers"]["image"]["proj"]["kernel"].at[0, 0].set(-0.0)
    state["params"]["towers"]["image"]["proj"]["kernel"] = kernel
    before = jax.tree.map(np.array, state["params"])
    step = make_train_step(made.towers, made.objective, made.optimizer, made.mesh)
    step = jit_train_step(step, state, made.mesh)
    draw = np.random.default_rng(0)
    for _ in range(STEPS):
        images = draw.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
        state, _ = step(state, {"images": images, "tokens": draw.integers(0, 9, (8, 6)).astype(np.int32)})
    return before, jax.tree.map(np.array, state["params"]), state


def changed(freeze):
    """Paths of the parameters of which any bit changed."""
    before, after, _ = trained(freeze)
    bits = [{path: leaf.tobytes() for path, leaf in small.flat(params).items()} for params in (before, after)]
    return {path for path in bits[0] if bits[0][path] != bits[1][path]}


OF_TOWER = ("trunk/kernel", "trunk/bias", "ln/scale", "ln/bias", "proj/kernel", "proj/bias")
ALL = {f"towers/{side}/{name}" for side in ("image", "text") for name in OF_TOWER} | {"scalars/logit_scale"}


@pytest.mark.parametrize(
    ("freeze", "held"),
    [
        ("", set()),
        (LIT, {path for path in ALL if path.startswith("towers/image")}),  # LiT
        (r".*/proj/kernel|scalars/.*", {"towers/image/proj/kernel", "towers/text/proj/kernel", "scalars/logit_scale"}),
    ],
)
def test_every_bit_of_what_is_frozen_stays_and_all_else_trains(freeze, held):
    assert changed(freeze) == ALL - held


def test_what_trains_trains_as_it_would_alone():
    """Adam's moments, its decay and the learning rate are those of a run in which nothing is frozen."""
    towers = {"image": {"kernel": jnp.ones((2, 2))}, "text": {"kernel": jnp.ones((2, 2))}}
    params = {"towers": towers, "scalars": {"logit_scale": jnp.ones(())}}
    grads = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    frozen, plain = (make_optimizer(parts(freeze).config.optimizer, lambda step: 0.1) for freeze in (LIT, ""))
    one, other = (optimizer.update(grads, optimizer.init(params), params)[0] for optimizer in (frozen, plain))
    np.testing.assert_array_equal(one["towers"]["text"]["kernel"], other["towers"]["text"]["kernel"])
    np.testing.assert_array_equal(one["scalars"]["logit_scale"], other["scalars"]["logit_scale"])
    np.testing.assert_array_equal(one["towers"]["image"]["kernel"], 0)


def test_an_update_of_zero_keeps_the_sign_of_zero():
    """Also where no compiler leaves the addition out."""
    params = {"towers": {"image": {"bias": jnp.float32([-0.0, 0.0])}, "text": {"bias": jnp.zeros(2)}}, "scalars": {}}
    optimizer = make_optimizer(parts(LIT).config.optimizer, lambda step: 0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)["towers"]["image"]["bias"]
    assert np.signbit(found).tolist() == [True, False]


def test_the_norm_that_clips_is_of_what_trains():
    params = {"towers": {"image": {"bias": jnp.zeros(2)}, "text": {"bias": jnp.zeros(2)}}, "scalars": {}}
    config = parts(LIT, clip_norm=0.25).config.optimizer
    optimizer = make_optimizer(config, lambda step: 0.1)
    grads = {"towers": {"image": {"bias": jnp.full(2, 1e6)}, "text": {"bias": jnp.float32([0.3, 0.4])}}, "scalars": {}}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    first = [leaf for path, leaf in jax.tree.leaves_with_path(state) if ".mu" in jax.tree_util.keystr(path)]
    # A norm of 0.5 is clipped to 0.25: the first moment is (1 - b1) times half the gradient.
    np.testing.assert_allclose(first, [[0.015, 0.02]], rtol=1e-5)


def test_frozen_parameters_have_no_moments():
    moments = [leaf for leaf in jax.tree.leaves(trained(LIT)[2]["opt_state"]) if leaf.ndim]
    text = jax.tree.leaves(trained(LIT)[0]["towers"]["text"])
    assert sorted(leaf.shape for leaf in moments) == sorted(2 * [leaf.shape for leaf in text])


def test_checkpoints_hold_a_state_with_frozen_parameters(tmp_path):
    init, state = initial(LIT)
    wanted = abstract_state(init, jax.random.key(0), parts(LIT).mesh)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(STEPS, trained(LIT)[2])
    restored = checkpoints.restore(wanted).state
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert tree_digests(restored) == tree_digests(trained(LIT)[2])


@pytest.mark.parametrize("freeze", ["", LIT])
def test_the_card_says_how_many_parameters_train(freeze):
    _, state = initial(freeze)
    total = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    image = sum(leaf.size for leaf in jax.tree.leaves(state["params"]["towers"]["image"]))
    trains = total - image if freeze else total
    expected = f"{trains:,} of {total:,} parameters" + (f", all but {freeze!r}" if freeze else "")
    assert f"  trains     {expected}\n" in start_up_card(parts(freeze), state, "runs/x", 0)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (
            "image/.*",
            r"freeze='image/.\*' matches no parameter; it must match a whole path, .* scalars/logit_scale, towers/",
        ),
        ("towers/image", "matches no parameter"),
        (".*", "matches every parameter: nothing would train"),
        ("towers/(image", r"freeze='towers/\(image' is no regular expression \(missing \)"),
    ],
)
def test_mistakes(freeze, message):
    with pytest.raises(UserError, match=message):
        parts(freeze)


def test_a_mask_of_towers_by_part():
    params = {"towers": small.params("clip"), "scalars": {}}
    mask = small.flat(frozen_mask(params, r"towers/text/transformer/.*/(ln_.|attn)/.*"))
    held = {path for path, frozen in mask.items() if frozen}
    parts_held = ("ln_1", "ln_2", "attn")
    assert held == {p for p in mask if p.startswith("towers/text/") and any(f"/{part}/" in p for part in parts_held)}
    assert len(held) == 8


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_nothing_is_pulled_back_to_what_is_frozen(micro_batches):
    """The gradient is zero there and the same elsewhere, for less work than without freezing."""
    made, (_, state) = parts(LIT), initial(LIT)
    draw = np.random.default_rng(0)
    batch = {"images": draw.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8), "tokens": draw.integers(0, 9, (8, 6))}
    weights = made.objective.weights(jnp.int32(0))
    compiled = []
    for freeze in ("", LIT):
        gradients = make_gradients(made.towers, made.objective, made.mesh, 0, micro_batches, 0, freeze)
        of = jax.jit(lambda params, gradients=gradients: gradients(params, batch, weights).params)
        compiled.append(of.lower(state["params"]).compile())
    whole, part = (small.flat(gradients(state["params"])) for gradients in compiled)
    for path, leaf in whole.items():
        if path.startswith("towers/image/"):
            assert np.abs(leaf).max() > 0 and not np.any(part[path])
        else:
            np.testing.assert_allclose(part[path], leaf, rtol=1e-5, atol=1e-7)
    with_it, without = (gradients.cost_analysis()["flops"] for gradients in compiled)
    assert without < 0.9 * with_it
