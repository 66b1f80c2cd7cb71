"""Frozen parameters: which ones; no bit of them changes; they have no moments; invalid patterns."""

import functools
from unittest import mock

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
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.startup_card import start_up_card
from rankclip_jax.training.step import abstract_state, create_state, make_gradients, make_init
from tests.golden import towers as small

pytestmark = pytest.mark.xdist_group("freeze")
STEPS = 3
LIT = "towers/image/.*"


class Tower(nn.Module):
    """Compiles fast: two linear maps and a norm."""

    image_size: int = 8
    context_length: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, name="trunk")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        return nn.Dense(4, name="proj")(nn.LayerNorm(name="ln")(x))


@functools.cache
def parts(freeze, clip_norm=0.0):
    """What `train` builds from a config, with towers that compile fast."""
    config = emoji.get_config("mu,clip")
    config.batch_size, config.duration, config.data.train_limit = 8, f"{STEPS} steps", 32
    config.optimizer.warmup, config.optimizer.weight_decay = "0 steps", 0.5
    config.optimizer.freeze, config.optimizer.clip_norm = freeze, clip_norm
    with mock.patch.object(setup, "build_towers", lambda *_: TwoTowers(image=Tower(), text=Tower())):
        return setup.build(config)


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
    step = setup.train_step(made, state)
    draw = np.random.default_rng(0)
    for _ in range(STEPS):
        images = draw.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
        state, _ = step(state, {"images": images, "tokens": draw.integers(0, 9, (8, 6)).astype(np.int32)})
    return before, jax.tree.map(np.array, state["params"]), state


def changed(freeze):
    """Paths of the parameters with any changed bit."""
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
def test_frozen_parameters_keep_every_bit_and_all_others_train(freeze, held):
    assert changed(freeze) == ALL - held


def optimizer_of(params, freeze=LIT, clip_norm=0.0):
    config = parts(freeze, clip_norm).config.optimizer
    return make_optimizer(config, lambda step: 0.1, frozen_mask(params, freeze))


def test_trained_parameters_train_as_without_freezing():
    """Adam's moments, its decay and the learning rate are those of a run in which nothing is frozen."""
    towers = {"image": {"kernel": jnp.ones((2, 2))}, "text": {"kernel": jnp.ones((2, 2))}}
    params = {"towers": towers, "scalars": {"logit_scale": jnp.ones(())}}
    grads = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    frozen, plain = (optimizer_of(params, freeze) for freeze in (LIT, ""))
    one, other = (optimizer.update(grads, optimizer.init(params), params)[0] for optimizer in (frozen, plain))
    np.testing.assert_array_equal(one["towers"]["text"]["kernel"], other["towers"]["text"]["kernel"])
    np.testing.assert_array_equal(one["scalars"]["logit_scale"], other["scalars"]["logit_scale"])
    np.testing.assert_array_equal(one["towers"]["image"]["kernel"], 0)


def test_an_update_of_zero_keeps_the_sign_of_zero():
    """Also where the compiler does not remove the addition."""
    params = {"towers": {"image": {"bias": jnp.float32([-0.0, 0.0])}, "text": {"bias": jnp.zeros(2)}}, "scalars": {}}
    optimizer = optimizer_of(params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)["towers"]["image"]["bias"]
    assert np.signbit(found).tolist() == [True, False]


def test_the_clipping_norm_excludes_frozen_parameters():
    params = {"towers": {"image": {"bias": jnp.zeros(2)}, "text": {"bias": jnp.zeros(2)}}, "scalars": {}}
    optimizer = optimizer_of(params, clip_norm=0.25)
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
        ("towers/(image", r"freeze='towers/\(image' is not a regular expression \(missing \)"),
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
def test_no_gradient_is_computed_for_frozen_parameters(micro_batches):
    """The gradient is zero there and the same elsewhere, for less work than without freezing."""
    made, (_, state) = parts(LIT), initial(LIT)
    draw = np.random.default_rng(0)
    batch = {"images": draw.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8), "tokens": draw.integers(0, 9, (8, 6))}
    weights = made.objective.weights(jnp.int32(0))
    compiled = []
    for freeze in ("", LIT):
        options = StepOptions(micro_batches=micro_batches, frozen=frozen_mask(state["params"], freeze))
        gradients = make_gradients(made.towers, made.objective, made.mesh, options)
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
