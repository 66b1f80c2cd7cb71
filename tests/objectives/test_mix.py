"""Terms added to an objective by its option `extra`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import OBJECTIVES, TERMS, RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.support import objective_checks as checks

pytestmark = pytest.mark.xdist_group("objective_mix")


def build(name="clip", **changes):
    return checks.build(name, **changes)


def weights_at(objective, step=0):
    return {name: float(value) for name, value in objective.weights(jnp.int32(step)).items()}


def evaluate(objective, weights=None):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(8, 4)) for _ in range(2)]
    image, text = (jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in rows)
    f = jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:1])))
    scalars = {"logit_scale": jnp.float32(math.log(14.3)), "logit_bias": jnp.float32(-3.0)}
    weights = weights or objective.weights(jnp.int32(0))
    return f({"image_embeds": image, "text_embeds": text}, scalars, weights)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_nothing_is_added_by_default(name):
    assert objective_config(name).extra == ""
    assert "plus" not in build(name).equation


def test_a_sum_of_terms():
    objective = build(extra="0.25 rank_in_modal + rank_cross+ 1e-2 siglip")
    assert tuple(objective.terms) == ("clip", "rank_in_modal", "rank_cross", "siglip")
    assert objective.equation == "L = CLIP, plus 0.25 rank_in_modal + rank_cross + 0.01 siglip"
    for step in (0, 99):
        expected = {"clip": 1.0, "rank_in_modal": 0.25, "rank_cross": 1.0, "siglip": 0.01}
        assert weights_at(objective, step) == pytest.approx(expected)


def test_weights_with_schedules():
    objective = build(
        extra="0.5 rank_cross:ramp + siglip : linear_down + 2 cyclip_cross:linear_up + soft_targets:constant"
    )
    names = "0.5 ramp(t) rank_cross + linear_down(t) siglip + 2 linear_up(t) cyclip_cross + soft_targets"
    assert objective.equation == f"L = CLIP, plus {names}"
    for step, ramp, linear_up in ((0, 0, 0), (50, 1.5, 0.5), (100, 2, 1)):
        expected = {
            "clip": 1,
            "rank_cross": ramp / 2,
            "siglip": 1 - linear_up,
            "cyclip_cross": 2 * linear_up,
            "soft_targets": 1,
        }
        assert weights_at(objective, step) == pytest.approx(expected)


def test_objectives_are_the_sums_of_their_terms():
    """SoftCLIP and self-distillation, built from their terms."""
    for name, base, extra in (
        ("softclip", "clip", "soft_targets + soft_negatives"),
        ("distill", "siglip", "aligned + distilled"),
    ):
        own, mixed = build(name), build(base, extra=extra)
        given = {term: jnp.float32(term in own.terms) for term in mixed.terms}
        np.testing.assert_allclose(evaluate(mixed, given).loss, evaluate(own).loss, rtol=1e-6)


def test_the_loss_and_the_gradient_are_sums():
    mixed = build(extra="0.25 rank_in_modal + 0.5 siglip")
    whole = evaluate(mixed)
    parts = {name: evaluate(build(name)) for name in ("clip", "siglip")}
    only_in_modal = {"clip": jnp.float32(0), "rank_cross": jnp.float32(0), "rank_in_modal": jnp.float32(1)}
    ranks = evaluate(build("rankclip"), only_in_modal)
    expected = parts["clip"].loss + 0.25 * ranks.loss + 0.5 * parts["siglip"].loss
    assert float(whole.loss) == pytest.approx(float(expected), rel=1e-5)
    for name in ("image_embeds", "text_embeds"):
        of = [result.d_embeds[name] for result in (parts["clip"], ranks, parts["siglip"])]
        wanted = of[0] + 0.25 * of[1] + 0.5 * of[2]
        np.testing.assert_allclose(whole.d_embeds[name], wanted, rtol=1e-4, atol=1e-5)


def test_the_ramp_of_the_objective_stays():
    objective = build("rankclip", in_modal_weight=0.0, extra="0.25 cyclip_in_modal")
    assert objective.equation == "L = CLIP + clip(3 t, 0, 2) (cross), exact ListMLE, plus 0.25 cyclip_in_modal"
    assert weights_at(objective, 50) == {"clip": 1.0, "rank_cross": 1.5, "cyclip_in_modal": 0.25}


def test_a_shared_scalar_keeps_the_initial_value_and_range_of_the_objective():
    for name, extra, added in (("clip", "siglip", {"logit_bias"}), ("siglip", "clip", set())):
        alone, mixed = build(name), build(name, extra=extra)
        assert mixed.scalars["logit_scale"] == alone.scalars["logit_scale"]
        assert mixed.scalars.keys() - alone.scalars.keys() == added
    assert build("clip").scalars["logit_scale"] != build("siglip").scalars["logit_scale"]


@pytest.mark.parametrize("text", ["", "  ", "0 rank_cross", "0.0 rank_cross + 0 siglip"])
def test_nothing_to_add(text):
    assert build(extra=text).equation == "L = CLIP"


def test_every_listed_term_can_be_added():
    """To an objective that lacks it, with the default options of its own objective."""
    for term in TERMS:
        name = "clip" if term != "clip" else "siglip"
        assert term in build(name, extra=f"0.5 {term}").terms


def test_options_of_an_objective_are_not_those_of_added_terms():
    """`top_k` of this objective applies to its own term; the added term has the default."""
    objective = build("rankclip", in_modal_weight=0.0, top_k=1, extra="rank_in_modal")
    alone = evaluate(build("clip", extra="rank_in_modal"))
    assert float(evaluate(objective).terms["rank_in_modal"]) == pytest.approx(
        float(alone.terms["rank_in_modal"]), rel=1e-6
    )


def test_a_config_without_the_option():
    config = objective_config("clip")
    del config["extra"]
    with pytest.raises(UserError, match="'clip' also needs extra"):
        build_objective(config, RunInfo(100, 10))


def test_every_term_is_registered_by_one_objective():
    assert len(TERMS) == sum(len(recipe.terms) for recipe in OBJECTIVES.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.25 rank_crosss", r"unknown term 'rank_crosss'. Did you mean 'rank_cross'\? Known: .*rank_cross"),
        ("0 rank_crosss", "unknown term 'rank_crosss'"),
        (
            "-0.5 rank_cross",
            "'-0.5 rank_cross' is not a weighted term; write weights and names, as in '0.25 rank_cross",
        ),
        ("0.25 rank_cross +", "'' is not a weighted term"),
        ("rank_cross, siglip", "'rank_cross, siglip' is not a weighted term"),
        ("1.2.3 rank_cross", "'1.2.3 rank_cross' is not a weighted term"),
        ("0.25", "'0.25' is not a weighted term"),
        ("rank_cross + 2 rank_cross", "names 'rank_cross' twice; add the two weights"),
        ("rank_cross:rmp", "unknown schedule of 'rank_cross' in objective.extra 'rmp'. Did you mean 'ramp'"),
        ("0.5 clip", "adds 'clip', which is part of objective 'clip' already"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UserError, match=message):
        build(extra=text)
