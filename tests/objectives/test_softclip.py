"""SoftCLIP: brute force, detached targets, extremes, blocks, devices, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from tests.support import objective_checks as checks
from tests.support.objective_checks import build, distance, evaluate, pairs

TERMS = ("clip", "soft_targets", "soft_negatives")
TAU = 0.2


def only(term):
    return {name: float(name == term) for name in TERMS}


def softmax(row):
    shares = np.exp(row - row.max())
    return shares / shares.sum()


def soft(term, divergence, teacher):
    """The loss as a function of (embeds, scalars), row by row, with the targets of `teacher`."""

    def divergence_of(q, p):
        forward = (q * np.log(q / p)).sum()
        return forward if divergence == "forward" else (forward + (p * np.log(p / q)).sum()) / 2

    def loss(embeds, scalars):
        total, batch = 0.0, len(embeds["image_embeds"])
        for a, b in (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")):
            for i in range(batch):
                kept = [j for j in range(batch) if term == "soft_targets" or j != i]
                q = softmax(teacher[a][kept] @ teacher[a][i] / TAU)
                p = softmax(np.exp(scalars["logit_scale"]) * embeds[b][kept] @ embeds[a][i])
                total += divergence_of(q, p) / (2 * batch)
        return total

    return loss


@pytest.mark.parametrize("divergence", ["symmetric", "forward"])
def test_against_brute_force(divergence):
    """The differences keep the targets constant, so a gradient into them would be detected."""
    embeds, scalars = pairs(6, 4, dtype=np.float64), {"logit_scale": np.log(9.0)}
    for term in TERMS[1:]:
        oracle = soft(term, divergence, embeds)
        with jax.enable_x64(True):
            result = evaluate(
                "softclip", embeds, 9.0, weights=only(term), divergence=divergence, target_temperature=TAU
            )
        assert float(result.loss) == pytest.approx(oracle(embeds, scalars), rel=1e-10)
        checks.assert_gradient_of(oracle, result, embeds, scalars)
        assert result.loss.dtype == "float64"


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_float32(scale):
    embeds, options = pairs(24), {"target_temperature": TAU}
    for term in TERMS[1:]:
        single = evaluate("softclip", embeds, scale, weights=only(term), **options)
        expected = soft(term, "symmetric", {k: x.astype(np.float64) for k, x in embeds.items()})
        wanted = expected({k: x.astype(np.float64) for k, x in embeds.items()}, {"logit_scale": np.log(scale)})
        assert float(single.terms[term]) == pytest.approx(wanted, rel=2e-6)
        with jax.enable_x64(True):
            wide = {name: x.astype(np.float64) for name, x in embeds.items()}
            double = evaluate("softclip", wide, scale, weights=only(term), **options)
        assert distance(checks.whole_gradient(single), checks.whole_gradient(double)) < 1e-5


def test_predictions_equal_to_the_targets_cost_nothing():
    """Texts equal their images, and the scale is 1 / temperature."""
    image = pairs(12)["image_embeds"]
    result = evaluate("softclip", {"image_embeds": image, "text_embeds": image}, 1 / 0.07, weights=only("soft_targets"))
    assert abs(float(result.loss)) < 1e-6
    assert np.abs(checks.whole_gradient(result)).max() < 1e-4


def test_the_negatives_term_ignores_the_positive():
    """The term does not depend on the cosine of the pair itself."""
    eye = np.eye(5, 8, dtype=np.float32)
    matching = evaluate("softclip", {"image_embeds": eye, "text_embeds": eye}, 14.3)
    opposite = evaluate("softclip", {"image_embeds": eye, "text_embeds": -eye}, 14.3)
    assert float(matching.terms["soft_negatives"]) == pytest.approx(0, abs=1e-6)
    assert float(opposite.terms["soft_negatives"]) == pytest.approx(0, abs=1e-6)
    assert float(opposite.terms["soft_targets"]) > 1.0


def test_one_and_two_pairs_have_zero_loss_of_negatives():
    for batch in (1, 2):
        result = evaluate("softclip", pairs(batch), weights=only("soft_negatives"))
        assert float(result.loss) == 0.0
        assert np.abs(checks.whole_gradient(result)).max() == 0.0


@pytest.mark.parametrize("block_rows", [1, 2, 6])
def test_blocks_of_rows_change_nothing(block_rows):
    embeds = pairs(12)
    checks.assert_same(evaluate("softclip", embeds), evaluate("softclip", embeds, block_rows=block_rows))


def test_eight_devices_give_what_one_gives():
    checks.assert_same_on_eight_devices(("softclip", {"block_rows": 2}))


def test_the_order_of_the_batch_changes_nothing():
    checks.assert_order_is_irrelevant("softclip", pairs(44))


def test_gradients_are_finite_at_the_extremes():
    for embeds in checks.extremes():
        checks.assert_finite(evaluate("softclip", embeds, 100.0, target_temperature=1e-3))


def test_nan_reaches_every_term():
    embeds = pairs(7)
    embeds["text_embeds"][3, 2] = np.nan
    assert all(np.isnan(value) for value in evaluate("softclip", embeds).terms.values())


# Options.


@pytest.mark.parametrize(
    ("changes", "equation"),
    [
        ({}, "L = CLIP + soft_targets + soft_negatives, symmetric KL, targets at temperature 0.07"),
        (
            {"soft_weight": 0.0, "negatives_weight": 0.5, "divergence": "forward", "target_temperature": 0.1},
            "L = CLIP + 0.5 soft_negatives, forward KL, targets at temperature 0.1",
        ),
    ],
)
def test_equations(changes, equation):
    objective = build("softclip", **changes)
    assert objective.equation == equation
    assert set(objective.weights(jnp.int32(0))) == set(objective.terms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_weight": -1.0}, r"objective\.soft_weight=-1\.0: a weight must be finite and at least 0"),
        ({"soft_weight": 0.0, "negatives_weight": 0.0}, "raise one of them, or use the objective clip"),
        ({"target_temperature": -0.1}, r"objective\.target_temperature=-0\.1: it must be a finite number from 0 up"),
        ({"divergence": "symetric"}, r"unknown objective.divergence 'symetric'. Did you mean 'symmetric'\?"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build("softclip", **changes)
