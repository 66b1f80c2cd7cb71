"""Update rules: against float64 NumPy, the size of their state, and runs that learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankclip_jax.config.base import get_config
from rankclip_jax.errors import UserError
from rankclip_jax.training.optimizer import frozen_mask, make_optimizer
from rankclip_jax.training.update_rules import MUON_RMS, UPDATE_RULES

RATE = 0.01


def config_of(name, **changes):
    config = get_config("mu").optimizer
    config.update({"name": name} | changes)
    return config


def params():
    """A scanned stack of two matrices, a convolution, an embedding, a bias and a scalar."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    tower = {
        "blocks": {"kernel": normal(2, 48, 40), "bias": normal(2, 40)},
        "conv": {"kernel": normal(3, 3, 8, 40)},
        "token_embedding": normal(64, 48),
    }
    return {"towers": {"text": tower}, "scalars": {"logit_scale": jnp.float32(2.0)}}


def gradients(step):
    rng = np.random.default_rng(step + 1)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params())


def run(config, steps=3):
    """(parameters after `steps`, the optimizer's state)."""
    optimizer = make_optimizer(config, lambda step: RATE)
    found = params()
    state = optimizer.init(found)
    for step in range(steps):
        updates, state = jax.jit(optimizer.update)(gradients(step), state, found)
        found = optax.apply_updates(found, updates)
    return found, state


def adam_direction(grads, b1=0.9, b2=0.98, eps=1e-6):
    """Adam's directions for a list of gradients, in float64."""
    m = v = np.zeros_like(grads[0])
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def lion_direction(grads, b1=0.9, b2=0.98):
    m = np.zeros_like(grads[0])
    for g in grads:
        yield np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g


def adafactor_direction(grads, b1=0.9):
    """Factored over the last two axes; for shapes with both of at least 32."""
    rows = columns = mean = 0.0
    for t, g in enumerate(grads, 1):
        decay = 1 - t**-0.8
        squares = g * g + 1e-30
        rows = decay * rows + (1 - decay) * squares.mean(-1)
        columns = decay * columns + (1 - decay) * squares.mean(-2)
        v = rows[..., :, None] * columns[..., None, :] / rows.mean(-1)[..., None, None]
        u = g / np.sqrt(v)
        u /= max(1.0, np.sqrt((u * u).mean()))
        mean = b1 * mean + (1 - b1) * u
        yield mean


def muon_direction(grads, beta=0.95):
    """Nesterov momentum, five Newton-Schulz steps, and the root mean square of Adam; a list of matrices [in, out]."""
    mean = np.zeros_like(grads[0])
    for t, g in enumerate(grads, 1):
        mean = beta * mean + (1 - beta) * g
        x = beta * mean / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (np.linalg.norm(x) + 1e-8)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if tall else x
        yield x * MUON_RMS * np.sqrt(max(x.shape))


def expected(directions, start, decay):
    p = np.asarray(start, np.float64)
    for u in directions:
        p = p - RATE * (u + decay * p)
    return p


def leaf(tree, *path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree, np.float64)


@pytest.mark.parametrize("name, direction", [("adamw", adam_direction), ("lion", lion_direction)])
def test_elementwise_rules(name, direction):
    found, _ = run(config_of(name))
    for path, decay in [(("towers", "text", "blocks", "kernel"), 0.1), (("towers", "text", "blocks", "bias"), 0.0)]:
        grads = [leaf(gradients(step), *path) for step in range(3)]
        np.testing.assert_allclose(
            leaf(found, *path), expected(direction(grads), leaf(params(), *path), decay), atol=2e-6
        )


def test_adafactor():
    found, _ = run(config_of("adafactor"))
    path = ("towers", "text", "token_embedding")
    grads = [leaf(gradients(step), *path) for step in range(3)]
    want = expected(adafactor_direction(grads), leaf(params(), *path), 0.1)
    np.testing.assert_allclose(leaf(found, *path), want, atol=2e-6)


def test_muon_takes_each_layer_of_a_stack_and_the_whole_kernel_of_a_convolution():
    found, _ = run(config_of("muon"))
    path = ("towers", "text", "blocks", "kernel")
    for layer in range(2):
        grads = [leaf(gradients(step), *path)[layer] for step in range(3)]
        want = expected(muon_direction(grads), leaf(params(), *path)[layer], 0.1)
        np.testing.assert_allclose(leaf(found, *path)[layer], want, atol=2e-5)
    path = ("towers", "text", "conv", "kernel")
    grads = [leaf(gradients(step), *path).reshape(72, 40) for step in range(3)]
    want = expected(muon_direction(grads), leaf(params(), *path).reshape(72, 40), 0.1)
    np.testing.assert_allclose(leaf(found, *path).reshape(72, 40), want, atol=2e-5)


def test_muon_leaves_embeddings_biases_and_scalars_to_adam():
    adam, _ = run(config_of("adamw"))
    found, _ = run(config_of("muon"))
    for path in [
        ("towers", "text", "token_embedding"),
        ("towers", "text", "blocks", "bias"),
        ("scalars", "logit_scale"),
    ]:
        np.testing.assert_allclose(leaf(found, *path), leaf(adam, *path), rtol=1e-6)


@pytest.mark.parametrize(
    "name, dtype, low, high",
    [
        ("adamw", "float32", 7.9, 8.1),
        ("adamw", "bfloat16", 5.9, 6.1),
        ("lion", "float32", 3.9, 4.1),
        ("lion", "bfloat16", 1.9, 2.1),
        ("adafactor", "bfloat16", 2.0, 4.5),  # small and odd shapes are not factored
        ("muon", "bfloat16", 2.0, 4.5),  # half of these parameters are an embedding
    ],
)
def test_bytes_of_state(name, dtype, low, high):
    shapes = jax.eval_shape(make_optimizer(config_of(name, moments_dtype=dtype), lambda step: RATE).init, params())
    count = sum(leaf.size for leaf in jax.tree.leaves(params()))
    assert low < sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) / count < high


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_every_rule_works_with_frozen_parameters_and_clipping(name):
    config = config_of(name, clip_norm=1.0, freeze=".*/blocks/.*")
    start = params()
    optimizer = make_optimizer(config, lambda step: RATE, frozen_mask(start, config.freeze))
    updates, _ = optimizer.update(gradients(0), optimizer.init(start), start)
    found = optax.apply_updates(start, updates)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), found, start)
    assert same["towers"]["text"]["blocks"] == {"kernel": True, "bias": True}
    assert not same["towers"]["text"]["conv"]["kernel"] and not same["scalars"]["logit_scale"]


def test_an_unknown_rule():
    with pytest.raises(UserError, match=r"unknown config.optimizer.name 'adam'. Did you mean 'adamw'"):
        make_optimizer(config_of("adam"), lambda step: RATE)


def test_moments_of_an_unknown_type():
    with pytest.raises(UserError, match=r"config.optimizer.moments_dtype='float8' must be float32 or bfloat16"):
        make_optimizer(config_of("lion", moments_dtype="float8"), lambda step: RATE)
