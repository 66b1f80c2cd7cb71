"""SigLIP: brute force, a learned bias, extremes, blocks, devices, options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import CLIP
from rankclip_jax.objectives.objective import Objective
from rankclip_jax.training.step import clamp_scalars
from tests.support import objective_checks as checks
from tests.support.objective_checks import build, distance, evaluate, pairs


def siglip(embeds, scalars):
    """The printed formula, pair by pair: loss, gradients by name."""
    v, t = (np.asarray(embeds[name], np.float64) for name in ("image_embeds", "text_embeds"))
    s, bias, batch = np.exp(scalars["logit_scale"]), scalars["logit_bias"], len(v)
    loss, d_logits = 0.0, np.zeros((batch, batch))
    for i in range(batch):
        for j in range(batch):
            z = 1 if i == j else -1
            against = -z * (s * v[i] @ t[j] + bias)
            loss += max(against, 0) + math.log1p(math.exp(-abs(against)))
            d_logits[i, j] = -z * (1 / (1 + math.exp(-against)) if against > -700 else 0.0)
    gradients = {"image_embeds": s * d_logits @ t, "text_embeds": s * d_logits.T @ v}
    gradients |= {"logit_scale": s * (d_logits * (v @ t.T)).sum(), "logit_bias": d_logits.sum()}
    return loss / batch, {name: d / batch for name, d in gradients.items()}


@pytest.mark.parametrize("batch", [2, 7, 24])
def test_against_brute_force(batch):
    embeds = pairs(batch)
    for scale, bias in ((1.0, 0.5), (10.0, -10.0), (100.0, -30.0)):
        loss, gradients = siglip(embeds, {"logit_scale": math.log(scale), "logit_bias": bias})
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            with jax.enable_x64(dtype == np.float64):
                result = evaluate("siglip", {name: x.astype(dtype) for name, x in embeds.items()}, scale, bias=bias)
            assert float(result.loss) == pytest.approx(loss, rel=tolerance)
            for name, gradient in (result.d_embeds | result.d_scalars).items():
                assert distance(gradient, gradients[name]) < tolerance, name
            assert result.loss.dtype == dtype


def test_the_gradient_of_the_oracle():
    """The gradient formula above is the derivative of the loss formula above."""
    embeds, scalars = pairs(5, 4, dtype=np.float64), {"logit_scale": math.log(7.0), "logit_bias": -3.0}
    with jax.enable_x64(True):
        result = evaluate("siglip", embeds, 7.0, bias=-3.0)
    checks.assert_gradient_of(lambda e, s: siglip(e, s)[0], result, embeds, scalars)


def test_loss_of_certain_answers():
    """If exponentials overflow or vanish, the loss is linear or exactly zero."""
    eye = np.eye(4, dtype=np.float32)
    right = evaluate("siglip", {"image_embeds": eye, "text_embeds": eye}, 1000.0, bias=-500.0)
    assert float(right.loss) == 0.0
    wrong = evaluate("siglip", {"image_embeds": eye, "text_embeds": eye[::-1]}, 1000.0, bias=-500.0)
    assert float(wrong.loss) == pytest.approx(1000.0, rel=1e-6)
    checks.assert_finite(wrong)


@pytest.mark.parametrize("block_rows", [1, 2, 6])
def test_blocks_of_rows_change_nothing(block_rows):
    embeds = pairs(12)
    checks.assert_same(evaluate("siglip", embeds), evaluate("siglip", embeds, block_rows=block_rows))


def test_eight_devices_give_what_one_gives():
    checks.assert_same_on_eight_devices(("siglip", {"block_rows": 2}))


def test_the_order_of_the_batch_changes_nothing():
    checks.assert_order_is_irrelevant("siglip", pairs(44))


def test_gradients_are_finite_at_the_extremes():
    for embeds in checks.extremes():
        checks.assert_finite(evaluate("siglip", embeds, 100.0))


def test_nan_reaches_the_loss():
    embeds = pairs(7)
    embeds["text_embeds"][3, 2] = np.nan
    assert np.isnan(evaluate("siglip", embeds).loss)


def test_images_are_not_gathered():
    assert build("siglip").gathered == ("text_embeds",)


def test_no_array_of_the_whole_batch_squared():
    objective, f = checks.compiled("siglip", (), 8, 1)
    shape = {name: jax.ShapeDtypeStruct((64, 16), "float32") for name in objective.inputs}
    scalar = jax.ShapeDtypeStruct((), "float32")
    text = f.lower(shape, dict.fromkeys(objective.scalars, scalar), {"siglip": scalar}).as_text()
    assert "8x64xf32" in text and "64x64" not in text


# Scalars.


def test_scalars_start_as_published():
    scalars = build("siglip").scalars
    assert math.exp(scalars["logit_scale"].initial) == pytest.approx(10)
    assert scalars["logit_bias"].initial == -10
    other = build("siglip", initial_scale=2.0, initial_bias=-5.0).scalars
    assert (math.exp(other["logit_scale"].initial), other["logit_bias"].initial) == (pytest.approx(2), -5)


@pytest.mark.parametrize(("clamp", "expected"), [(False, [-1.0, 9.0]), (True, [0.0, math.log(100)])])
def test_the_scale_is_clamped_on_request_and_the_bias_never(clamp, expected):
    objective = build("siglip", clamp_scale=clamp)
    for value, wanted in zip((-1.0, 9.0), expected, strict=True):
        given = {"scalars": {"logit_scale": jnp.float32(value), "logit_bias": jnp.float32(-1e6)}}
        scalars = clamp_scalars(given, objective)["scalars"]
        assert float(scalars["logit_scale"]) == pytest.approx(wanted)
        assert float(scalars["logit_bias"]) == -1e6


def test_terms_must_agree_on_a_shared_scale():
    terms = {"clip": CLIP} | build("siglip").terms
    with pytest.raises(
        UserError, match=r"'clip' has another initial value or range for the learned scalar 'logit_scale'"
    ):
        Objective("both", "", terms, lambda step: {})


# Options.


def test_equation():
    assert build("siglip").equation == "L = SigLIP"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_scale": 0.0}, r"objective\.initial_scale=0\.0: it must be a finite number above 0"),
        ({"initial_scale": math.inf}, r"objective\.initial_scale=inf: it must be a finite number above 0"),
        ({"initial_scale": 200.0, "clamp_scale": True}, "initial_scale=200 is outside the range 1 to 100 of clamp"),
        ({"initial_bias": math.nan}, r"objective\.initial_bias=nan: it must be a finite number"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build("siglip", **changes)
