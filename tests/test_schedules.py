"""Durations and schedules against hand values and the formulas of their docstrings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.schedules import (
    SCHEDULES,
    WEIGHT_SCHEDULES,
    rank_ramp,
    rank_ramp_released,
    to_steps,
    warmup_constant,
    warmup_cosine,
)

UNITS = {"total_steps": 1000, "steps_per_epoch": 93, "batch_size": 32}


@pytest.mark.parametrize(
    "spec, steps",
    [
        ("1000 steps", 1000),
        ("1000", 1000),
        (1000, 1000),
        ("1_000 steps", 1000),
        ("1e3", 1000),
        ("1 step", 1),
        ("3 epochs", 279),
        ("1 epoch", 93),
        ("0.5 epochs", 46),
        ("2e6 examples", 62500),
        ("33 examples", 2),
        ("5%", 50),
        ("5 %", 50),
        ("2.5 percent", 25),
        ("0.001%", 1),
        ("0", 0),
        ("0%", 0),
        ("0 epochs", 0),
    ],
)
def test_durations(spec, steps):
    assert to_steps(spec, **UNITS) == steps


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "optimizer.warmup='' is not a duration; write 1000 steps"),
        ("soon", "is not a duration"),
        ("-5 steps", "is not a duration"),
        ("nan", "is not a duration"),
        ("1.2.3 steps", "is not a duration"),
        ("1 step 2 epochs", "is not a duration"),
        ("3 epoches", "unknown unit 'epoches'. Did you mean 'epochs'?"),
        ("1.5 steps", "steps must be a whole number"),
    ],
)
def test_invalid_durations(spec, message):
    with pytest.raises(UserError) as caught:
        to_steps(spec, **UNITS, name="optimizer.warmup")
    assert message in str(caught.value)


def test_a_unit_without_a_base():
    with pytest.raises(UserError, match="duration='5%' cannot be given in % here; use steps or epochs"):
        to_steps("5%", steps_per_epoch=93)
    with pytest.raises(UserError, match=r"in epochs here; use steps$"):
        to_steps("3 epochs")


def test_warmup_cosine_follows_its_formula_at_every_step():
    peak, warmup, total = 5e-4, 100, 1000
    schedule = jax.jit(jax.vmap(warmup_cosine(peak, warmup, total)))
    expected = [
        peak * (k + 1) / warmup
        if k < warmup
        else peak * 0.5 * (1 + math.cos(math.pi * (k - warmup) / (total - warmup)))
        for k in range(total + 1)
    ]
    # In float32 1 + cos loses digits near the end, so the tolerance is relative to the peak.
    np.testing.assert_allclose(schedule(jnp.arange(total + 1)), expected, rtol=1e-6, atol=1e-7 * peak)


def test_warmup_cosine_by_hand():
    schedule = warmup_cosine(2.0, 4, 12)
    assert [float(schedule(k)) for k in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert float(schedule(4)) == 2.0
    assert float(schedule(8)) == pytest.approx(1.0, abs=1e-6)
    assert float(schedule(12)) == float(schedule(50)) == 0.0


def test_no_warmup_starts_at_the_peak():
    for schedule in SCHEDULES.values():
        assert float(schedule(3.0, 0, 10)(0)) == 3.0


def test_warmup_is_not_skipped_with_large_data():
    """In the released code the first step on CC3M at batch 256 is at the peak; here it is at peak / W."""
    assert float(warmup_cosine(5e-4, 10_000, 64 * 10_963)(0)) == pytest.approx(5e-8)


def test_constant_stays():
    schedule = warmup_constant(2.0, 4, 12)
    assert [float(schedule(k)) for k in (0, 3, 4, 11, 99)] == [0.5, 2.0, 2.0, 2.0, 2.0]


def test_rank_ramp():
    values = jax.jit(jax.vmap(rank_ramp(300)))(jnp.array([0, 50, 100, 200, 299, 300]))
    np.testing.assert_allclose(values, [0, 0.5, 1, 2, 2, 2], rtol=1e-6)


def test_rank_ramp_released_is_a_staircase():
    """E = 4: epochs 1 to 4 have clip(3 (e - 1) / 3, 0, 2) = 0, 1, 2, 2."""
    values = jax.vmap(rank_ramp_released(10, 4))(jnp.array([0, 9, 10, 19, 20, 29, 30, 39]))
    np.testing.assert_allclose(values, [0, 0, 1, 1, 2, 2, 2, 2], rtol=1e-6)


def test_rank_ramp_released_needs_two_epochs():
    with pytest.raises(UserError, match="needs at least 2 epochs"):
        rank_ramp_released(10, 1)


@pytest.mark.parametrize(("name", "expected"), [("constant", [1, 1, 1, 1]), ("linear_up", [0, 0.25, 1, 1])])
def test_weight_schedules(name, expected):
    values = [float(WEIGHT_SCHEDULES[name](100)(jnp.int32(step))) for step in (0, 25, 100, 120)]
    assert values == pytest.approx(expected)


def test_linear_down_mirrors_linear_up():
    up, down = WEIGHT_SCHEDULES["linear_up"](100), WEIGHT_SCHEDULES["linear_down"](100)
    for step in (0, 25, 100, 120):
        assert float(up(step)) + float(down(step)) == pytest.approx(1)
