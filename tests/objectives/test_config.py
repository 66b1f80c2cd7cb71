"""Objectives from their config: weights over training, wording, mistakes."""

import math

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import RunInfo, build_objective, objective_config

DEFAULTS = objective_config("rankclip").to_dict() | {"ramp": "none"}


def build(run=(100, 10), **changes):
    return build_objective(ConfigDict(DEFAULTS | changes), RunInfo(*run))


def weights_at(objective, step):
    return {name: float(value) for name, value in objective.weights(jnp.int32(step)).items()}


def test_ramp_by_step():
    objective = build(run=(300, 10), ramp="step", in_modal_weight=0.5)
    assert weights_at(objective, 0) == {"clip": 1.0, "rank_cross": 0.0, "rank_in_modal": 0.0}
    assert weights_at(objective, 50) == {"clip": 1.0, "rank_cross": 0.5, "rank_in_modal": 0.25}
    assert weights_at(objective, 299) == {"clip": 1.0, "rank_cross": 2.0, "rank_in_modal": 1.0}


def test_ramp_by_epoch_as_released():
    objective = build(run=(70, 10), ramp="epoch")  # 7 epochs: 3 (e - 1) / 6
    found = [weights_at(objective, step)["rank_cross"] for step in (0, 9, 10, 29, 30, 49, 69)]
    assert found == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_ramp_by_epoch_counts_a_partial_last_epoch():
    assert weights_at(build(run=(11, 10), ramp="epoch"), 10)["rank_cross"] == 2.0


def test_no_ramp():
    assert weights_at(build(ramp="none", cross_weight=0.25), 0)["rank_cross"] == 0.25


@pytest.mark.parametrize(
    ("changes", "equation"),
    [
        ({}, "L = CLIP + (cross + in_modal), exact ListMLE"),
        ({"ramp": "step"}, "L = CLIP + clip(3 t, 0, 2) (cross + in_modal), exact ListMLE"),
        ({"ramp": "epoch"}, "L = CLIP + clip(3 (e-1)/(E-1), 0, 2) (cross + in_modal), exact ListMLE"),
        ({"cross_weight": 0.5}, "L = CLIP + (0.5 cross + in_modal), exact ListMLE"),
        ({"cross_weight": 0.0, "arithmetic": "released"}, "L = CLIP + (in_modal), released ListMLE"),
        ({"name": "clip"}, "L = CLIP"),
    ],
)
def test_equations(changes, equation):
    assert build(**changes).equation == equation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rankclp"}, r"unknown objective 'rankclp'. Did you mean 'rankclip'\? Known: alip, clip, .*rankclip"),
        ({"arithmetic": "exakt"}, r"unknown objective.arithmetic 'exakt'. Did you mean 'exact'\?"),
        ({"ramp": "steps"}, r"unknown objective.ramp 'steps'. Did you mean 'step'\? Known: epoch, none, step."),
        ({"cross_weight": -0.5}, r"objective\.cross_weight=-0\.5: a weight must be finite and at least 0"),
        ({"in_modal_weight": float("nan")}, r"objective\.in_modal_weight=nan: a weight must be finite and at least 0"),
        ({"cross_weight": 0.0, "in_modal_weight": 0.0}, "cross_weight=0 and in_modal_weight=0: raise one"),
        ({"ramp": "epoch", "run": (10, 10)}, "needs at least 2 epochs, not 1"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_the_scale_has_the_range_of_clip():
    scalar = build().scalars["logit_scale"]
    assert math.exp(scalar.initial) == pytest.approx(1 / 0.07)
    assert (scalar.minimum, math.exp(scalar.maximum)) == (0.0, pytest.approx(100.0))
