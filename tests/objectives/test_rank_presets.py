"""RankCLIP's weights over training, its scale, presets, equations and mistakes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from configs import emoji
from rankclip_jax.errors import UserError
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.objectives.test_rank_options import BATCH, TERMS, build, distance, evaluate, gradients, pairs
from tests.support.oracles import rank_term
from tests.support.paths import VECTORS

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")


# Weights, the scale, presets.


def weight_at(objective, step):
    return {name: float(value) for name, value in objective.weights(jnp.int32(step)).items()}


def test_fixed_weight():
    objective = build(fixed_weight=0.5, in_modal_weight=2.0)
    for step in (0, 99):
        assert weight_at(objective, step) == {"clip": 1.0, "rank_cross": 0.5, "rank_in_modal": 1.0}


def test_detached_scale_leaves_the_scale_to_clip():
    image, text = pairs(BATCH)
    for term in TERMS[1:]:
        result = evaluate(image, text, 14.3, term, detach_scale=True)
        loss, *expected = rank_term(image, text, 14.3, term)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert distance(gradients(result)[:2], expected[:2]) < 1e-4
        assert float(result.d_scalars["logit_scale"]) == 0.0
    all_terms, clip = (evaluate(image, text, 14.3, term, detach_scale=True) for term in (None, "clip"))
    assert float(all_terms.d_scalars["logit_scale"]) == pytest.approx(float(clip.d_scalars["logit_scale"]), rel=1e-5)
    assert float(clip.d_scalars["logit_scale"]) != 0.0


def test_the_released_preset():
    config = emoji.get_config("rankclip_released").objective
    assert (config.arithmetic, config.ramp, config.list_scope) == ("released", "epoch", "row")
    objective = build_objective(config, RunInfo(70, 10))
    assert objective.name == "rankclip_released"
    assert objective.equation == "L = CLIP + clip(3 (e-1)/(E-1), 0, 2) (cross + in_modal), released ListMLE"
    assert [weight_at(objective, step)["rank_cross"] for step in (0, 10, 69)] == [0.0, 0.5, 2.0]
    with pytest.raises(UserError, match="needs at least 2 epochs, not 1"):
        build_objective(config, RunInfo(10, 10))


def test_the_released_preset_has_the_released_terms():
    content = json.loads((VECTORS / "objectives_b24_d8.json").read_text())
    case = next(c for c in content["cases"] if c["term"] == "rank_in_modal_released" and c["log_scale"] > 4)
    config = objective_config("rankclip_released")
    objective = build_objective(config, RunInfo(70, 10))
    only = dataclasses.replace(objective, terms={"rank_in_modal": objective.terms["rank_in_modal"]})
    result = jax.jit(loss_and_gradients(only, make_mesh(jax.devices()[:1])))(
        {"image_embeds": jnp.float32(content["image"]), "text_embeds": jnp.float32(content["text"])},
        {"logit_scale": jnp.float32(case["log_scale"])},
        {"rank_in_modal": jnp.float32(1)},
    )
    assert float(result.loss) == pytest.approx(case["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "equation"),
    [
        ({"fixed_weight": 0.5}, "L = CLIP + 0.5 (cross + in_modal), exact ListMLE"),
        ({"top_k": 10}, "L = CLIP + (cross + in_modal), exact ListMLE, top 10"),
        (
            {"list_scope": "batch", "position_weight": "log", "include_diagonal": False, "detach_scale": True},
            "L = CLIP + (cross + in_modal), exact ListMLE, one list of all pairs, rank k weighs 1/ln(k+1), "
            "without own pairs, scale detached",
        ),
    ],
)
def test_equations(changes, equation):
    assert build(**changes).equation == equation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"list_scope": "rows"}, r"unknown objective.list_scope 'rows'. Did you mean 'row'\? Known: batch, row."),
        ({"position_weight": "ln"}, "unknown objective.position_weight 'ln'. Known: log, none."),
        ({"top_k": -1}, "objective.top_k=-1 must be a whole number"),
        ({"top_k": 2.5}, "objective.top_k=2.5 must be a whole number"),
        ({"fixed_weight": -1.0}, "objective.fixed_weight=-1.0: it must be a finite number above 0"),
        ({"fixed_weight": float("nan")}, "objective.fixed_weight=nan: it must be a finite number above 0"),
        ({"fixed_weight": 0.5, "ramp": "step"}, "fixed_weight=0.5 has no effect with objective.ramp='step'"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)
