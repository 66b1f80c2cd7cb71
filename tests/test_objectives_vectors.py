"""Objective terms against float64 brute-force values and gradients made without JAX."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rankclip_jax.objectives import RunLength, build_objective
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.sharding import make_mesh

VECTORS = pathlib.Path(__file__).parent / "vectors"
FILES = sorted(path.name for path in VECTORS.glob("*.json"))
TERMS = {
    "clip": ("clip", "exact"),
    "rank_cross": ("rank_cross", "exact"),
    "rank_in_modal": ("rank_in_modal", "exact"),
    "rank_cross_released": ("rank_cross", "released"),
    "rank_in_modal_released": ("rank_in_modal", "released"),
}


def cases():
    for name in FILES:
        content = json.loads((VECTORS / name).read_text())
        for case in content["cases"]:
            if case["term"] in TERMS:
                scale = np.exp(case["log_scale"])
                yield pytest.param(content, case, id=f"{name[11:-5]}-{case['term']}-scale{scale:.0f}")


@functools.cache  # one compilation for all cases of a shape: terms are chosen by their weights
def compiled(arithmetic, block_rows):
    config = ConfigDict(
        {"name": "rankclip", "arithmetic": arithmetic, "cross_weight": 1.0, "in_modal_weight": 1.0, "ramp": "none"}
    )
    objective = build_objective(config, RunLength(10, 5))
    return jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:1]), block_rows))


def evaluate(content, case, dtype, block_rows=0):
    term, arithmetic = TERMS[case["term"]]
    weights = {name: jnp.asarray(float(name == term), dtype) for name in ("clip", "rank_cross", "rank_in_modal")}
    embeds = {
        "image_embeds": jnp.asarray(content["image"], dtype),
        "text_embeds": jnp.asarray(content["text"], dtype),
    }
    scalars = {"log_scale": jnp.asarray(case["log_scale"], dtype)}
    return compiled(arithmetic, block_rows)(embeds, scalars, weights)


def relative_l2(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)


def assert_agrees(result, case, loss_tolerance, gradient_tolerance):
    assert float(result.loss) == pytest.approx(case["loss"], rel=loss_tolerance)
    whole = [result.d_embeds["image_embeds"], result.d_embeds["text_embeds"], result.d_scalars["log_scale"]]
    expected = [case["d_image"], case["d_text"], case["d_log_scale"]]
    for found, wanted in zip(whole, expected, strict=True):
        assert relative_l2(found, wanted) < gradient_tolerance


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
    found = {json.loads((VECTORS / name).read_text())["cases"][i]["term"] for name in FILES for i in range(9)}
    assert len(FILES) == 3
    assert {"clip", "rank_cross", "rank_in_modal"} <= found
