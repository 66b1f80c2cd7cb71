"""CyCLIP: the closed form and the rows against brute force, its precision, augmented views, mistakes."""

import re

import jax
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from tests.support import objective_checks as checks
from tests.support.objective_checks import build, distance, evaluate, pairs

TERMS = ("clip", "cyclip_in_modal", "cyclip_cross")
# D < B uses Gram matrices, D >= B uses rows.
SHAPES = pytest.mark.parametrize(("batch", "dim"), [(12, 4), (12, 12), (6, 16)])


def cyclic(term, embeds):
    """The printed formula: loss, d_image, d_text."""
    v, t = (np.asarray(embeds[name], np.float64) for name in ("image_embeds", "text_embeds"))
    batch = len(v)
    if term == "cyclip_in_modal":
        gap = v @ v.T - t @ t.T
        return (gap**2).sum() / batch, 4 * gap @ v / batch, -4 * gap @ t / batch
    gap = v @ t.T - t @ v.T
    return (gap**2).sum() / batch, 4 * gap @ t / batch, -4 * gap @ v / batch


def only(term):
    return {name: float(name == term) for name in TERMS}


@SHAPES
@pytest.mark.parametrize("term", TERMS[1:])
def test_against_the_printed_formula(batch, dim, term):
    embeds = pairs(batch, dim)
    loss, d_image, d_text = cyclic(term, embeds)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-6)):
        with jax.enable_x64(dtype == np.float64):
            result = evaluate("cyclip", {name: x.astype(dtype) for name, x in embeds.items()}, weights=only(term))
        assert float(result.loss) == pytest.approx(loss, rel=tolerance)
        assert float(result.terms[term]) == pytest.approx(loss, rel=tolerance)
        assert distance(result.d_embeds["image_embeds"], d_image) < tolerance
        assert distance(result.d_embeds["text_embeds"], d_text) < tolerance
        assert float(result.d_scalars["logit_scale"]) == 0.0
        assert result.loss.dtype == dtype


def test_both_terms_at_once_add_up():
    """They share their sums, but each must get its own gradient."""
    for dim in (4, 16):
        embeds = pairs(12, dim)
        result = evaluate("cyclip", embeds, weights={"clip": 0.0, "cyclip_in_modal": 0.25, "cyclip_cross": 2.0})
        parts = [cyclic(term, embeds) for term in TERMS[1:]]
        assert float(result.loss) == pytest.approx(0.25 * parts[0][0] + 2 * parts[1][0], rel=1e-6)
        assert distance(result.d_embeds["image_embeds"], 0.25 * parts[0][1] + 2 * parts[1][1]) < 1e-5


@pytest.mark.parametrize("dim", [8, 64])
@pytest.mark.parametrize("term", TERMS[1:])
def test_precision_if_pairs_nearly_match(dim, term):
    rng = np.random.default_rng(0)
    image = checks.unit(rng.normal(size=(64, dim)))
    embeds = {"image_embeds": image, "text_embeds": checks.unit(image + 1e-3 * rng.normal(size=(64, dim)))}
    embeds = {name: x.astype(np.float32) for name, x in embeds.items()}
    result = evaluate("cyclip", embeds, weights=only(term))
    loss, d_image, d_text = cyclic(term, embeds)
    assert float(result.loss) == pytest.approx(loss, rel=5e-7)
    assert distance(result.d_embeds["image_embeds"], d_image) < 1e-6
    assert distance(result.d_embeds["text_embeds"], d_text) < 1e-6


def test_the_usual_expansion_is_imprecise():
    """Shows that the test above is hard: same data, float32, |V'V|^2 + |T'T|^2 - 2 |V'T|^2."""
    rng = np.random.default_rng(0)
    image = checks.unit(rng.normal(size=(64, 8)))
    text = checks.unit(image + 1e-3 * rng.normal(size=(64, 8)))
    v, t = image.astype(np.float32), text.astype(np.float32)
    expanded = (np.square(v.T @ v).sum() + np.square(t.T @ t).sum() - 2 * np.square(v.T @ t).sum()) / 64
    loss, _, _ = cyclic("cyclip_in_modal", {"image_embeds": v, "text_embeds": t})
    assert abs(expanded - loss) > 1e-3 * loss


@pytest.mark.parametrize(("dim", "block_rows"), [(4, 3), (16, 1), (16, 3)])
def test_blocks_of_rows_change_nothing(dim, block_rows):
    embeds = pairs(12, dim)
    checks.assert_same(evaluate("cyclip", embeds), evaluate("cyclip", embeds, block_rows=block_rows))


def test_eight_devices_give_what_one_gives():
    checks.assert_same_on_eight_devices(("cyclip", {"dim": 8, "block_rows": 2}), ("cyclip", {"dim": 64}))


@pytest.mark.parametrize("dim", [4, 48])
def test_the_order_of_the_batch_changes_nothing(dim):
    checks.assert_order_is_irrelevant("cyclip", pairs(44, dim))


@pytest.mark.parametrize("dim", [4, 48])
def test_gradients_are_finite_at_the_extremes(dim):
    for embeds in checks.extremes(dim=dim):
        checks.assert_finite(evaluate("cyclip", embeds, 100.0))


def test_matching_pairs_cost_nothing():
    for dim in (4, 48):
        image = pairs(24, dim)["image_embeds"]
        result = evaluate("cyclip", {"image_embeds": image, "text_embeds": image})
        assert float(result.terms["cyclip_in_modal"]) == float(result.terms["cyclip_cross"]) == 0.0


def test_no_product_of_the_whole_batch():
    """With D < B the cyclic terms multiply no blocks of rows: the two products are CLIP's."""
    objective, f = checks.compiled("cyclip", (), 8, 1)
    shape = {name: jax.ShapeDtypeStruct((64, 16), "float32") for name in objective.inputs}
    scalar = jax.ShapeDtypeStruct((), "float32")
    text = f.lower(shape, {"logit_scale": scalar}, dict.fromkeys(TERMS, scalar)).as_text()
    made = re.findall(r"dot_general.*-> tensor<(\d+)x(\d+)xf32>", text)
    assert ("64", "64") not in made
    assert made.count(("8", "64")) == 2
    # a'a, b'b and a'b, computed once for both terms.
    assert made.count(("16", "16")) == 3


# Augmented views.


def augmented_pairs(batch=7, dim=5):
    views = pairs(batch, dim, seed=1, dtype=np.float64)
    return pairs(batch, dim, dtype=np.float64) | {f"{name}_augmented": x for name, x in views.items()}


def contrast(embeds, scalars):
    """1/2 {1/2 [CE(S) + CE(S')] + 1/2 [CE(s V V~') + CE(s T T~')]} and the cyclic terms at 0.25."""

    def entropy(a, b):
        scores = np.exp(scalars["logit_scale"]) * a @ b.T
        return np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))

    v, t = embeds["image_embeds"], embeds["text_embeds"]
    own = entropy(v, embeds["image_embeds_augmented"]) + entropy(t, embeds["text_embeds_augmented"])
    both = 0.5 * (0.5 * (entropy(v, t) + entropy(t, v)) + 0.5 * own)
    return both + 0.25 * sum(cyclic(term, embeds)[0] for term in TERMS[1:])


def test_augmented_views_against_brute_force():
    embeds, scalars = augmented_pairs(), {"logit_scale": np.log(5.0)}
    with jax.enable_x64(True):
        result = evaluate("cyclip", embeds, 5.0, augmented=True)
    assert float(result.loss) == pytest.approx(contrast(embeds, scalars), rel=1e-10)
    checks.assert_gradient_of(contrast, result, embeds, scalars)


def test_augmented_views_replace_half_of_clip():
    objective = build("cyclip", augmented=True)
    assert objective.equation == "L = 0.5 CLIP + 0.5 augmented + 0.25 cyclip_in_modal + 0.25 cyclip_cross"
    names = ("image_embeds", "text_embeds", "image_embeds_augmented", "text_embeds_augmented")
    assert objective.inputs == objective.gathered == names
    assert build("cyclip").inputs == names[:2]


# Options.


@pytest.mark.parametrize(
    ("changes", "equation"),
    [
        ({}, "L = CLIP + 0.25 cyclip_in_modal + 0.25 cyclip_cross"),
        ({"in_modal_weight": 0.0, "cross_weight": 0.5}, "L = CLIP + 0.5 cyclip_cross"),
        ({"in_modal_weight": 1.0, "cross_weight": 0.0}, "L = CLIP + cyclip_in_modal"),
        ({"in_modal_weight": 0.0, "cross_weight": 0.0, "augmented": True}, "L = 0.5 CLIP + 0.5 augmented"),
    ],
)
def test_weights_and_ablations(changes, equation):
    objective = build("cyclip", **changes)
    assert objective.equation == equation
    assert set(objective.weights(0)) == set(objective.terms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_modal_weight": -1.0}, r"objective\.in_modal_weight=-1\.0: a weight must be finite and at least 0"),
        ({"cross_weight": float("nan")}, r"objective\.cross_weight=nan: a weight"),
        ({"in_modal_weight": 0.0, "cross_weight": 0.0}, "raise one of them, or use the objective clip"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build("cyclip", **changes)
