"""Objective terms against float64 brute-force values and gradients, computed without JAX."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.support.paths import VECTORS

FILES = sorted(path.name for path in VECTORS.glob("*.json"))
# {term of a file: (objective, options that differ from its defaults, term of the objective)}
TERMS = {
    "clip": ("rankclip", {}, "clip"),
    "rank_cross": ("rankclip", {}, "rank_cross"),
    "rank_in_modal": ("rankclip", {}, "rank_in_modal"),
    "rank_cross_released": ("rankclip", {"arithmetic": "released"}, "rank_cross"),
    "rank_in_modal_released": ("rankclip", {"arithmetic": "released"}, "rank_in_modal"),
    "cyclip_in_modal": ("cyclip", {}, "cyclip_in_modal"),
    "cyclip_cross": ("cyclip", {}, "cyclip_cross"),
    "siglip": ("siglip", {}, "siglip"),
}
# {array or learned scalar: (key of its value in the file or the case, key of its gradient in the case)}
ARRAYS = {"image_embeds": ("image", "d_image"), "text_embeds": ("text", "d_text")}
SCALARS = {"logit_scale": ("log_scale", "d_log_scale"), "logit_bias": ("bias", "d_bias")}


def cases():
    for name in FILES:
        content = json.loads((VECTORS / name).read_text())
        for case in content["cases"]:
            if case["term"] in TERMS:
                scale = np.exp(case["log_scale"])
                yield pytest.param(content, case, id=f"{name[11:-5]}-{case['term']}-scale{scale:.0f}")


def build(name, changes):
    return build_objective(ConfigDict(objective_config(name).to_dict() | changes), RunInfo(10, 5))


@functools.cache  # one compilation for all cases of a shape: terms are chosen by their weights
def compiled(name, changes, block_rows):
    objective = build(name, dict(changes))
    return objective, jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:1]), block_rows))


def evaluate(content, case, dtype, block_rows=0):
    name, changes, term = TERMS[case["term"]]
    objective, f = compiled(name, tuple(changes.items()), block_rows)
    weights = {name: jnp.asarray(float(name == term), dtype) for name in objective.terms}
    embeds = {name: jnp.asarray(content[ARRAYS[name][0]], dtype) for name in objective.inputs}
    scalars = {name: jnp.asarray(case[SCALARS[name][0]], dtype) for name in objective.scalars}
    return f(embeds, scalars, weights, objective.initial_state())


def relative_l2(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)


def assert_agrees(result, case, loss_tolerance, gradient_tolerance):
    assert float(result.loss) == pytest.approx(case["loss"], rel=loss_tolerance)
    for name, found in result.d_embeds.items():
        assert relative_l2(found, case[ARRAYS[name][1]]) < gradient_tolerance
    # The gradient is null for a term that does not read the scale.
    wanted = [case[SCALARS[name][1]] or 0.0 for name in result.d_scalars]
    assert relative_l2([*result.d_scalars.values()], wanted) < gradient_tolerance


@pytest.mark.parametrize(("content", "case"), list(cases()))
def test_float32(content, case):
    assert_agrees(evaluate(content, case, jnp.float32), case, 1e-6, 1e-5)


@pytest.mark.parametrize(("content", "case"), list(cases()))
def test_float64(content, case):
    with jax.enable_x64(True):
        assert_agrees(evaluate(content, case, jnp.float64), case, 1e-10, 1e-10)


@pytest.mark.parametrize("block_rows", [1, 2, 3, 6])
def test_blocks_of_rows_change_nothing(block_rows):
    content = json.loads((VECTORS / "objectives_ties_b12_d4.json").read_text())
    for case in content["cases"]:
        if case["term"] in TERMS:
            assert_agrees(evaluate(content, case, jnp.float32, block_rows), case, 1e-6, 1e-5)


def test_every_term_is_covered():
    found = {case["term"] for name in FILES for case in json.loads((VECTORS / name).read_text())["cases"]}
    assert len(FILES) == 3
    assert set(TERMS) <= found
