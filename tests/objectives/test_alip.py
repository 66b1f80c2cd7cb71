"""ALIP: vectors, brute force, running means, extremes, blocks, devices."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import objective_checks as checks
from tests.support import processes
from tests.support.objective_checks import build, distance, unit, whole_gradient
from tests.support.paths import VECTORS as VECTOR_FILES

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("alip")

VECTORS = sorted(VECTOR_FILES.glob("*.json"))
BRANCHES = {"alip_text": "text_embeds", "alip_caption": "caption_embeds"}
# Running means within the range of the cosines of `triples`: some samples are above them, some below.
STATE = {"alip_text": {"consistency": 0.6, "match": 0.5}, "alip_caption": {"consistency": 0.6, "match": 0.4}}
ONE = {name: {"consistency": 1.0, "match": 1.0} for name in BRANCHES}


def triples(batch, dim=16, dtype=np.float32):
    """Embeddings of images, texts and second captions, related and in a narrow cone."""
    embeds = checks.pairs(batch, dim, dtype=np.float64)
    noise = np.random.default_rng(5).normal(size=(batch, dim))
    embeds["caption_embeds"] = unit(embeds["text_embeds"] + 0.3 * noise)
    return {name: x.astype(dtype) for name, x in embeds.items()}


def evaluate(embeds, scale=14.3, state=STATE, *, block_rows=0, devices=1, **changes):
    """The objective of these embeddings and running means."""
    objective, f = checks.compiled("alip", tuple(sorted(changes.items())), block_rows, devices)
    embeds = {key: jnp.asarray(value) for key, value in embeds.items()}
    dtype = jnp.promote_types(embeds["image_embeds"].dtype, jnp.float32)
    state = {name: state[name] for name in objective.initial_state()}
    values = {"logit_scale": math.log(scale)}, objective.weights(jnp.int32(0)), state
    scalars, weights, state = jax.tree.map(lambda x: jnp.asarray(x, dtype), values)
    return f(embeds, scalars, weights, state, jnp.int32(0))


def cosines(a, b):
    return np.array([float(x @ y) for x, y in zip(a, b, strict=True)])


def weights_of(embeds, branch, state, exponents=(2.0, 2.0), momentum=0.99):
    """Weight of each sample, in a loop, and the running means after the batch."""
    v, t, c = (np.asarray(embeds[f"{name}_embeds"], np.float64) for name in ("image", "text", "caption"))
    y = {"alip_text": t, "alip_caption": c}[branch]
    means = {
        "consistency": momentum * state["consistency"] + (1 - momentum) * cosines(t, c).mean(),
        "match": momentum * state["match"] + (1 - momentum) * cosines(v, y).mean(),
    }
    weights = []
    for a, d in zip(cosines(t, c), cosines(v, y), strict=True):
        sample = math.exp(exponents[0] * (a - means["consistency"]))
        pair = math.exp(exponents[1] * (d - means["match"])) if sample < 1 else 1.0
        weights.append(min(1.0, sample) * pair)
    return np.array(weights), means


def weighted_clip(image, other, logit_scale, weights):
    """1/B sum_i w_i 1/2 [CE_i + CE_i'] in loops: loss, and gradients with respect to the first three arguments."""
    v, y, s, batch = np.asarray(image, np.float64), np.asarray(other, np.float64), np.exp(logit_scale), len(image)
    scores, loss, d_scores = s * v @ y.T, 0.0, np.zeros((batch, batch))
    for i in range(batch):
        for row, d_row in ((scores[i], d_scores[i]), (scores[:, i], d_scores[:, i])):
            peak = row.max()
            log_sum = peak + math.log(np.exp(row - peak).sum())
            loss += weights[i] * (log_sum - scores[i, i]) / (2 * batch)
            d_row += weights[i] * (np.exp(row - log_sum) - (np.arange(batch) == i)) / (2 * batch)
    return loss, s * d_scores @ y, s * d_scores.T @ v, s * (d_scores * (v @ y.T)).sum()


def oracle(embeds, logit_scale, state=STATE, **how):
    """Loss of each branch, {name: gradient} of their sum, and running means after the batch."""
    gradients = {name: np.zeros(np.shape(x)) for name, x in embeds.items()} | {"logit_scale": 0.0}
    losses, means = {}, {}
    for branch, name in BRANCHES.items():
        weights, means[branch] = weights_of(embeds, branch, state[branch], **how)
        loss = weighted_clip(embeds["image_embeds"], embeds[name], logit_scale, weights)
        losses[branch] = loss[0]
        for key, gradient in zip(("image_embeds", name, "logit_scale"), loss[1:], strict=True):
            gradients[key] = gradients[key] + gradient
    return losses, gradients, means


def assert_agrees(result, expected, tolerance, rounding=0.0):
    """Relative agreement up to `rounding`, that of one utility: the loss is smaller than it if all pairs are right."""
    losses, gradients, means = expected
    assert float(result.loss) == pytest.approx(sum(losses.values()), rel=tolerance, abs=rounding)
    for name, loss in losses.items():
        assert float(result.terms[name]) == pytest.approx(loss, rel=tolerance, abs=rounding)
    for name, gradient in (result.d_embeds | result.d_scalars).items():
        error = np.linalg.norm(np.asarray(gradient, np.float64) - gradients[name])
        assert error < tolerance * np.linalg.norm(gradients[name]) + rounding, name
    for branch, mean in means.items():
        assert {k: float(v) for k, v in result.state[branch].items()} == pytest.approx(mean, rel=1e-6)


# Values.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem[11:])
def test_vectors(path, dtype):
    content = json.loads(path.read_text())
    cases = [case for case in content["cases"] if case["term"] == "alip"]
    assert len(cases) == 3
    with jax.enable_x64(dtype == np.float64):
        embeds = {f"{name}_embeds": np.asarray(content[name], dtype) for name in ("image", "text", "caption")}
        for case in cases:
            before, after = case["history_before"], case["history_after"]
            keys = {"alip_text": ("a", "b"), "alip_caption": ("a", "d")}
            state = {term: {"consistency": before[a], "match": before[b]} for term, (a, b) in keys.items()}
            result = evaluate(embeds, math.exp(case["log_scale"]), state)
            loss_tolerance, tolerance = (1e-6, 1e-5) if dtype == np.float32 else (1e-10, 1e-10)
            assert float(result.loss) == pytest.approx(case["loss"], rel=loss_tolerance)
            for name in ("image", "text", "caption"):
                assert distance(result.d_embeds[f"{name}_embeds"], case[f"d_{name}"]) < tolerance, name
            assert distance(result.d_scalars["logit_scale"], case["d_log_scale"]) < tolerance
            for term, (a, b) in keys.items():
                assert float(result.state[term]["consistency"]) == pytest.approx(after[a], rel=loss_tolerance)
                assert float(result.state[term]["match"]) == pytest.approx(after[b], rel=loss_tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_against_brute_force(dtype, tolerance):
    embeds = triples(12)
    # Some samples are above the running mean, some below.
    assert 0 < (cosines(embeds["text_embeds"], embeds["caption_embeds"]) < 0.6).sum() < 12
    for scale in (1.0, 14.3, 100.0):
        with jax.enable_x64(dtype == np.float64):
            result = evaluate({name: x.astype(dtype) for name, x in embeds.items()}, scale)
        rounding = scale * float(np.finfo(dtype).eps)
        assert_agrees(result, oracle(embeds, math.log(scale)), tolerance, rounding)
        assert result.loss.dtype == dtype


def test_the_gradient_of_the_oracle():
    """The gradient formula is the derivative of the loss formula, with constant weights."""
    embeds, logit_scale = triples(5, 4, np.float64), np.float64(math.log(7.0))
    weights = {branch: weights_of(embeds, branch, STATE[branch])[0] for branch in BRANCHES}

    def loss(embeds, scalars):
        image = embeds["image_embeds"]
        return sum(
            weighted_clip(image, embeds[name], scalars["logit_scale"], weights[branch])[0]
            for branch, name in BRANCHES.items()
        )

    with jax.enable_x64(True):
        result = evaluate(embeds, 7.0, STATE)
    checks.assert_gradient_of(loss, result, embeds, {"logit_scale": logit_scale})


def test_other_exponents_and_momentum():
    embeds = triples(12)
    changes = {"sample_exponent": 1.0, "pair_exponent": 3.0, "momentum": 0.5}
    expected = oracle(embeds, math.log(14.3), STATE, exponents=(1.0, 3.0), momentum=0.5)
    assert_agrees(evaluate(embeds, 14.3, STATE, **changes), expected, 2e-5)


def test_without_exponents_it_is_two_clips():
    """All weights are 1, so the branch of texts is CLIP."""
    embeds = triples(12)
    result = evaluate(embeds, sample_exponent=0.0, pair_exponent=0.0)
    clip = checks.evaluate("clip", {name: embeds[name] for name in ("image_embeds", "text_embeds")})
    assert float(result.terms["alip_text"]) == pytest.approx(float(clip.loss), rel=1e-6)


# The running means.


def test_means_start_at_one_and_are_updated_before_use():
    objective = build("alip")
    initial = objective.initial_state()
    assert jax.tree.map(float, initial) == ONE
    embeds, state, expected = triples(12), initial, ONE
    for step in range(3):
        batch = {name: np.roll(x, step, axis=1) * (1 - 0.1 * step) for name, x in embeds.items()}
        result = evaluate(batch, 14.3, state)
        found = oracle(batch, math.log(14.3), expected)
        assert_agrees(result, found, 1e-5, 2e-6)
        state, expected = result.state, found[2]
    assert 0.97 < float(state["alip_text"]["match"]) < 1


def test_both_branches_have_the_same_consistency():
    state = evaluate(triples(12), state=ONE).state
    assert float(state["alip_text"]["consistency"]) == float(state["alip_caption"]["consistency"])


def test_one_branch_alone():
    embeds = triples(12)
    both = evaluate(embeds)
    text = evaluate(embeds, caption_weight=0.0)
    assert float(text.loss) == pytest.approx(float(both.terms["alip_text"]), rel=1e-6)
    assert not np.any(text.d_embeds["caption_embeds"])  # it enters the weights only, which carry no gradient
    caption = evaluate(embeds, text_weight=0.0)
    assert float(caption.loss) == pytest.approx(float(both.terms["alip_caption"]), rel=1e-6)
    assert not np.any(caption.d_embeds["text_embeds"])
    assert build("alip", caption_weight=0.0).gathered == ("image_embeds", "text_embeds")


# Blocks, devices, order, extremes.


@pytest.mark.parametrize("block_rows", [1, 4])
def test_blocks_of_rows_change_nothing(block_rows):
    embeds = triples(12)
    checks.assert_same(evaluate(embeds), evaluate(embeds, block_rows=block_rows))


EIGHT = """
from tests.support.objective_checks import distance, whole_gradient
from tests.objectives.test_alip import STATE, evaluate, triples
one, eight = (evaluate(triples(32), 14.3, STATE, block_rows=2, devices=devices) for devices in (1, 8))
assert distance(eight.loss, one.loss) < 1e-6, (eight.loss, one.loss)
assert distance(whole_gradient(eight), whole_gradient(one)) < 1e-5
for term, means in one.state.items():
    for name, mean in means.items():
        assert distance(eight.state[term][name], mean) < 1e-6
        assert mean != STATE[term][name]
print("same")
"""


def test_eight_devices_give_what_one_gives():
    code, out, err = processes.run(EIGHT, devices=8)
    assert (code, out) == (0, "same\n"), err


def test_the_order_of_the_batch_changes_nothing():
    embeds = triples(12)
    order = np.random.default_rng(1).permutation(12)
    for scale in (14.3, 100.0):
        result = evaluate(embeds, scale, STATE)
        permuted = evaluate({name: x[order] for name, x in embeds.items()}, scale, STATE)
        d_embeds = {name: d[order] for name, d in result.d_embeds.items()}
        checks.assert_same(result._replace(d_embeds=d_embeds), permuted)


def test_gradients_are_finite_at_the_extremes():
    for embeds in checks.extremes(12):
        for other in (embeds["text_embeds"], embeds["image_embeds"], -embeds["text_embeds"]):
            for state in (ONE, STATE):
                checks.assert_finite(evaluate(embeds | {"caption_embeds": other}, 100.0, state))


def test_all_equal_embeddings_have_no_gradient():
    row = np.repeat(triples(1)["image_embeds"], 12, axis=0)
    result = evaluate(dict.fromkeys(triples(1), row), 100.0)
    assert float(result.loss) == pytest.approx(2 * math.log(12), rel=1e-5)  # consistent, so of full weight
    assert np.abs(whole_gradient(result)).max() < 1e-3


@pytest.mark.parametrize("name", ["image_embeds", "text_embeds", "caption_embeds"])
def test_nan_reaches_the_loss(name):
    embeds = triples(12)
    embeds[name][3, 2] = np.nan
    assert np.isnan(evaluate(embeds).loss)
