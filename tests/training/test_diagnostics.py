"""Diagnostics: known angles, shares and orders; duplicates; clamps; any number of devices; on and off."""

import dataclasses
import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji
from rankclip_jax.evals.rank_correlation import kendall_tau
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.objectives.rows import LossAndGradients, loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.training import diagnostics, setup
from rankclip_jax.training.diagnostics import (
    agreement,
    along_the_sphere,
    duplicate_captions,
    make_diagnostics,
    of_terms,
)
from tests.support import processes

pytestmark = pytest.mark.xdist_group("diagnostics")

BATCH, DIM = 16, 8


# Agreement of lists.


def matrix(size=9, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(size, size)))


def test_agreement_of_equal_and_of_reversed_lists():
    assert float(agreement(matrix(), jnp.exp(matrix()))) == 1.0
    assert float(agreement(matrix(), -matrix())) == 0.0


def test_agreement_by_chance():
    assert float(agreement(matrix(40), matrix(40, seed=1))) == pytest.approx(0.5, abs=0.02)


def test_agreement_by_hand():
    # Items 1, 2, 3 of row 0: the lists agree on 1 < 3 and 2 < 3, and not on 1 and 2. Other rows tie everything.
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[0], second[0] = [9, 1, 2, 3], [-9, 2, 1, 3]
    assert float(agreement(jnp.asarray(first), jnp.asarray(second))) == pytest.approx(2 / 3)


def test_agreement_leaves_out_ties_and_the_own_item():
    first = matrix()
    assert float(agreement(first, first - 100 * jnp.eye(9))) == 1.0
    half_tied = jnp.where(first > 0, first, 0.0)
    assert float(agreement(first, half_tied)) == 1.0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_agreement_where_nothing_can_be_compared(size):
    assert float(agreement(jnp.zeros((size, size)), jnp.zeros((size, size)))) == 0.5


def test_agreement_is_kendalls_tau():
    first, second = matrix(12), matrix(12) + 0.7 * matrix(12, seed=2)
    others = ~np.eye(12, dtype=bool)
    tau = kendall_tau(np.asarray(first)[others].reshape(12, 11), np.asarray(second)[others].reshape(12, 11)).mean()
    assert 0.1 < tau < 0.9
    assert float(agreement(first, second)) == pytest.approx((tau + 1) / 2, abs=1e-6)


# Duplicate captions.


def test_duplicate_captions_by_hand():
    tokens = np.array([[5, 6, 0], [5, 7, 0], [5, 6, 0], [6, 5, 0], [5, 6, 0], [1, 1, 1]], np.int32)
    assert float(duplicate_captions(jnp.asarray(tokens))) == pytest.approx(3 / 6)
    assert float(duplicate_captions(jnp.asarray(tokens[[1, 3, 5]]))) == 0.0
    assert float(duplicate_captions(jnp.asarray(tokens[[0, 2, 4]]))) == 1.0
    assert float(duplicate_captions(jnp.asarray(tokens[:1]))) == 0.0


@pytest.mark.parametrize("values", [2, 3, 50_000])
def test_duplicate_captions_against_brute_force(values):
    tokens = np.random.default_rng(0).integers(0, values, (64, 5)).astype(np.int32)
    rows = [tuple(row) for row in tokens]
    expected = np.mean([rows.count(row) > 1 for row in rows])
    assert float(jax.jit(duplicate_captions)(tokens)) == pytest.approx(expected)


# Gradients of terms.


def result(*gradients):
    d_embeds = {name: jnp.float32(g) for name, g in zip(("image_embeds", "text_embeds"), gradients, strict=True)}
    return LossAndGradients(jnp.float32(2), {}, d_embeds, {}, {})


def measured(weights, **results):
    """`of_terms` at embeddings that are orthogonal to all gradients here."""
    embeds = dict.fromkeys(("image_embeds", "text_embeds"), jnp.float32([[0, 0, 1]]))
    found = of_terms(dict.fromkeys(weights), results, embeds, {k: jnp.float32(v) for k, v in weights.items()})
    return {name: float(value) for name, value in found.items()}


ONE, OTHER = result([[3, 0, 0]], [[0, 4, 0]]), result([[0, 2, 0]], [[-2, 0, 0]])


def test_known_angles():
    twin = result([[6, 0, 0]], [[0, 8, 0]])
    opposite = result([[-3, 0, 0]], [[0, -4, 0]])
    between = result([[3, 0, 0]], [[0, -1, 0]])  # inner product 9 - 4
    nothing = result([[0, 0, 0]], [[0, 0, 0]])
    terms = {"clip": ONE, "twin": twin, "opposite": opposite, "across": OTHER, "between": between, "nothing": nothing}
    found = measured(dict.fromkeys(terms, 1.0), **terms)
    expected = {"twin": 1, "opposite": -1, "across": 0, "between": 5 / (5 * math.sqrt(10)), "nothing": 0}
    for name, cosine in expected.items():
        assert found[f"cosine_with_clip_{name}"] == pytest.approx(cosine, abs=1e-6)
    assert "cosine_with_clip_clip" not in found
    assert found["grad_norm_clip"] == pytest.approx(5.0)
    assert found["loss_twin"] == 2.0


def test_shares_are_of_the_weighted_gradients():
    found = measured({"clip": 1.0, "other": 2.0}, clip=ONE, other=OTHER)
    other = 2 * math.sqrt(8)
    assert found["grad_norm_other"] == pytest.approx(math.sqrt(8))
    assert found["grad_share_other"] == pytest.approx(other / (5 + other))
    assert found["grad_share_clip"] + found["grad_share_other"] == pytest.approx(1.0)
    assert measured({"clip": 0.0}, clip=ONE)["grad_share_clip"] == 0.0


def test_an_objective_without_clip():
    found = measured({"other": 1.0}, clip=ONE, other=ONE)
    assert found["cosine_with_clip_other"] == pytest.approx(1.0)
    assert not any(name.endswith("_clip") for name in found)
    assert not any(name.startswith("cosine") for name in measured({"other": 1.0}, other=ONE))


def test_terms_that_read_no_embeddings_have_no_angle():
    logits = LossAndGradients(jnp.float32(0), {}, {"image_logits": jnp.ones((2, 3))}, {}, {})
    found = measured({"clip": 1.0, "logits": 1.0}, clip=ONE, logits=logits)
    assert "cosine_with_clip_logits" not in found
    assert found["grad_norm_logits"] == pytest.approx(math.sqrt(6))  # logits are not normalised: nothing is removed


def test_the_radial_part_of_a_gradient_does_not_count():
    embeds = {"image_embeds": jnp.float32([[0.6, 0.8], [1, 0]])}
    gradient = {"image_embeds": jnp.float32([[0.6, 0.8], [2, 3]])}
    found = along_the_sphere(gradient, embeds)["image_embeds"]
    np.testing.assert_allclose(found, [[0, 0], [0, 3]], atol=1e-6)


# All diagnostics, with towers that look their embeddings up.


class Table(nn.Module):
    """Embeddings that are parameters."""

    @nn.compact
    def compute(self, inputs, batch, train=False, locked=()):
        shape = (len(batch["tokens"]), DIM)
        rows = {name: self.param(name, nn.initializers.normal(1.0), shape) for name in ("image_embeds", "text_embeds")}
        return {name: rows[name] / jnp.linalg.norm(rows[name], axis=1, keepdims=True) for name in inputs}


def inputs():
    batch = {"tokens": jnp.arange(BATCH * 3, dtype=jnp.int32).reshape(BATCH, 3) // 6 * 6}
    inputs = ("image_embeds", "text_embeds")
    return Table().init(jax.random.key(0), inputs, batch, method="compute")["params"], batch


def objective(name="rankclip"):
    return build_objective(objective_config(name), RunInfo(100, 10))


def twins():
    """RankCLIP with CLIP's term twice."""
    found = objective()
    return dataclasses.replace(found, terms=found.terms | {"twin": found.terms["clip"]})


@functools.cache
def whole(logit_scale=2.0, devices=1):
    towers, batch = inputs()
    weights = {"clip": 1.0, "rank_cross": 2.0, "rank_in_modal": 0.0, "twin": 1.0}
    diagnose = jax.jit(make_diagnostics(Table(), twins(), make_mesh(jax.devices()[:devices])))
    params = {"towers": towers, "scalars": {"logit_scale": jnp.float32(logit_scale)}}
    found = diagnose(params, batch, {name: jnp.float32(weight) for name, weight in weights.items()})
    return {name: float(value) for name, value in found.items()}


def test_the_names_of_all_diagnostics():
    terms = ("clip", "rank_cross", "rank_in_modal", "twin")
    of_terms = {f"{kind}_{term}" for kind in ("loss", "grad_norm", "grad_share") for term in terms}
    angles = {f"cosine_with_clip_{term}" for term in terms[1:]}
    of_batch = {"agreement_cross_modal", "agreement_in_modal", "duplicate_captions", "logit_scale_at_clamp"}
    assert whole().keys() == of_terms | angles | of_batch
    assert all(math.isfinite(value) for value in whole().values())


def test_all_diagnostics_against_the_terms_alone():
    params, batch = inputs()
    embeds = Table().apply({"params": params}, ("image_embeds", "text_embeds"), batch, method="compute")
    f = jax.jit(loss_and_gradients(objective(), make_mesh(jax.devices()[:1])))
    gradients = {}
    for term in ("clip", "rank_cross"):
        weights = {name: jnp.float32(name == term) for name in ("clip", "rank_cross", "rank_in_modal")}
        one = f(embeds, {"logit_scale": jnp.float32(2.0)}, weights)
        assert whole()[f"loss_{term}"] == pytest.approx(float(one.loss), rel=1e-5)
        parts = []
        for name, unit in embeds.items():
            d = one.d_embeds[name]
            parts.append(np.ravel(d - np.sum(d * unit, axis=1, keepdims=True) * unit))
        gradients[term] = np.concatenate(parts)
        assert whole()[f"grad_norm_{term}"] == pytest.approx(np.linalg.norm(gradients[term]), rel=1e-4)
    a, b = gradients["clip"], gradients["rank_cross"]
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert whole()["cosine_with_clip_rank_cross"] == pytest.approx(cosine, abs=1e-4)
    assert whole()["cosine_with_clip_twin"] == pytest.approx(1.0, abs=1e-5)
    assert whole()["grad_share_rank_in_modal"] == 0.0
    assert whole()["duplicate_captions"] == 1.0


def test_scalars_at_their_clamps():
    one, sigmoid = objective(), objective("siglip")
    at = lambda value, of: diagnostics.at_clamp(of, {"logit_scale": jnp.float32(value), "logit_bias": 0.0})  # noqa: E731
    assert float(at(math.log(14.3), one)["logit_scale_at_clamp"]) == 0.0
    for end in (one.scalars["logit_scale"].minimum, one.scalars["logit_scale"].maximum):
        clamped = jnp.clip(jnp.float32(end + math.copysign(1, end - 1)), 0.0, math.log(100.0))
        assert float(at(clamped, one)["logit_scale_at_clamp"]) == 1.0
    assert at(3.0, sigmoid) == {}  # neither of its scalars is clamped


def test_eight_devices_are_one():
    code, out, err = processes.run(
        "import json; from tests.training import test_diagnostics as t; print(json.dumps(t.whole(devices=8)))",
        devices=8,
        seconds=120,
    )
    assert code == 0, err
    found = json.loads(out)
    for name, value in whole().items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


def a_state(towers):
    return {
        "step": jnp.int32(50),  # the ramp is at 1.5
        "params": {"towers": towers, "scalars": {"logit_scale": jnp.float32(2.0)}},
        "opt_state": (),
        "objective": {},
        "model_state": {},
    }


def test_the_metrics_have_their_prefix_and_describe_the_given_state():
    towers, batch = inputs()
    state = a_state(towers)
    one, mesh = objective(), make_mesh(jax.devices()[:1])
    found = diagnostics.jit_diagnostics(make_diagnostics(Table(), one, mesh), one, mesh)(state, batch)
    assert all(name.startswith("diagnostics/") for name in found)
    clip, cross = (float(found[f"diagnostics/grad_share_{term}"]) for term in ("clip", "rank_cross"))
    norms = (float(found[f"diagnostics/grad_norm_{term}"]) for term in ("clip", "rank_cross"))
    norm_of_clip, norm_of_cross = norms
    assert cross / clip == pytest.approx(1.5 * norm_of_cross / norm_of_clip, rel=1e-5)


# On and off.


def made(on):
    """What `train` builds from a config, with towers that need no compilation."""
    config = emoji.get_config("mu")
    config.batch_size, config.duration, config.data.train_limit = BATCH, "2 steps", 32
    config.optimizer.warmup, config.tokenizer.vocab_size, config.log.diagnostics = "0 steps", 300, on
    return setup.build(config)._replace(towers=Table(), mesh=make_mesh(jax.devices()[:1]))


def test_diagnostics_are_on_by_default_and_can_be_switched_off():
    assert emoji.get_config().log.diagnostics is True
    assert setup.diagnostics(made(False))({"any": "state"}, {}) == {}
    towers, batch = inputs()
    found = setup.diagnostics(made(True))(a_state(towers), batch)
    assert float(found["diagnostics/grad_norm_clip"]) > 0.0
