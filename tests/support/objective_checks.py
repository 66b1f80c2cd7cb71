"""Shared by the tests of all objectives: embeddings, evaluation, distances, finite differences, eight devices."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.support import processes

RUN = (100, 10)  # total steps, steps per epoch


def build(name, run=RUN, **changes):
    """The objective `name` with its default options and these changes."""
    return build_objective(ConfigDict(objective_config(name).to_dict() | changes), RunInfo(*run))


@functools.cache
def compiled(name, changes, block_rows, devices):
    objective = build(name, **dict(changes))
    return objective, jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:devices]), block_rows))


def evaluate(name, embeds, scale=14.3, *, weights=None, step=0, block_rows=0, devices=1, bias=-10.0, **changes):
    """The objective of embeddings {name: [B, D]}, with its weights at `step`, or with `weights`.

    Calls that differ only in values and `step` share one compilation per shape.
    """
    objective, f = compiled(name, tuple(sorted(changes.items())), block_rows, devices)
    embeds = {key: jnp.asarray(value) for key, value in embeds.items()}
    dtype = jnp.promote_types(jnp.result_type(*embeds.values()), jnp.float32)
    values = {"logit_scale": math.log(scale), "logit_bias": bias}
    scalars = {key: jnp.asarray(values[key], dtype) for key in objective.scalars}
    weights = objective.weights(jnp.int32(step)) if weights is None else weights
    weights = {key: jnp.asarray(value, dtype) for key, value in weights.items()}
    return f(embeds, scalars, weights, objective.initial_state(), jnp.int32(step))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs(batch, dim=16, seed=0, dtype=np.float32):
    """Unit-norm embeddings of related images and texts, in a narrow cone like those of trained models."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, dim)) + rng.normal(size=dim)
    text = image / 2 + rng.normal(size=(batch, dim))
    return {"image_embeds": unit(image).astype(dtype), "text_embeds": unit(text).astype(dtype)}


def whole_gradient(result):
    parts = [*(result.d_embeds[name] for name in sorted(result.d_embeds)), *result.d_scalars.values()]
    return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])


def distance(found, expected):
    """Relative L2 distance of two gradients."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)


def central_differences(f, x, width=1e-6):
    """Gradient of f at x, float64 and any shape, by central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += width
        down[index] -= width
        gradient[index] = (f(up) - f(down)) / (2 * width)
    return gradient


def assert_gradient_of(oracle, result, embeds, scalars, tolerance=1e-7):
    """The gradient of `result` (float64) equals central differences of oracle(embeds, scalars) -> float."""
    for name, value in embeds.items():
        wanted = central_differences(lambda x, name=name: oracle(embeds | {name: x}, scalars), value)
        assert distance(result.d_embeds[name], wanted) < tolerance, name
    for name, value in scalars.items():
        at = np.asarray(value, np.float64)
        wanted = central_differences(lambda x, name=name: oracle(embeds, scalars | {name: x}), at)
        assert distance(result.d_scalars[name], wanted) < tolerance, name


def assert_same(result, other, tolerance=1e-5):
    """Equal losses, terms and gradients."""
    assert distance(other.loss, result.loss) < tolerance
    for name, value in result.terms.items():
        assert distance(other.terms[name], value) < tolerance, name
    assert distance(whole_gradient(other), whole_gradient(result)) < tolerance


def assert_order_is_irrelevant(name, embeds, scale=14.3, tolerance=1e-5, **how):
    """A permutation of the batch permutes the gradients and changes nothing else."""
    order = np.random.default_rng(1).permutation(len(embeds["image_embeds"]))
    result = evaluate(name, embeds, scale, **how)
    permuted = evaluate(name, {key: x[order] for key, x in embeds.items()}, scale, **how)
    assert_same(result._replace(d_embeds={key: d[order] for key, d in result.d_embeds.items()}), permuted, tolerance)


def assert_finite(result):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def extremes(batch=24, dim=16):
    """Embeddings that are hard for the arithmetic: related, all equal, opposite, with rows of zeros."""
    embeds = pairs(batch, dim)
    image = embeds["image_embeds"]
    equal = np.repeat(image[:1], batch, axis=0)
    zeros = {name: x.copy() for name, x in embeds.items()}
    zeros["image_embeds"][3] = zeros["text_embeds"][3] = zeros["text_embeds"][5] = 0
    return [
        embeds,
        {"image_embeds": equal, "text_embeds": equal},
        {"image_embeds": image, "text_embeds": -image},
        zeros,
    ]


EIGHT = """
import json, sys
from tests.support.objective_checks import distance, evaluate, pairs, whole_gradient
for name, how in json.loads(sys.argv[1]):
    embeds = pairs(how.pop("batch", 32), how.pop("dim", 16))
    one, eight = (evaluate(name, embeds, devices=devices, **how) for devices in (1, 8))
    print(float(distance(eight.loss, one.loss)), float(distance(whole_gradient(eight), whole_gradient(one))))
"""


def assert_same_on_eight_devices(*cases):
    """Each case (name, {keywords of `evaluate`, "batch", "dim"}) has the same result on 8 devices as on 1."""
    code, out, err = processes.run(EIGHT, json.dumps(cases), devices=8)
    assert code == 0, err
    found = [[float(word) for word in line.split()] for line in out.splitlines()]
    assert len(found) == len(cases)
    for case, (loss, gradient) in zip(cases, found, strict=True):
        assert loss < 1e-6 and gradient < 1e-5, (case, loss, gradient)
