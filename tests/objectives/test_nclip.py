"""nCLIP and xCLIP: brute force, limits, extremes, gathered arrays, blocks, devices, order, weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from tests.support import objective_checks as checks
from tests.support import processes
from tests.support.objective_checks import build, distance, evaluate, whole_gradient

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("nclip")

TERMS = ("nclip_cross_entropy", "nclip_sharpness", "nclip_smoothness")
LOGITS = ("image_logits", "text_logits")


def logits(batch, prototypes=10, spread=1.0, dtype=np.float32):
    """Logits of related images and texts; a larger `spread` makes sharper distributions."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(batch, prototypes))
    text = 0.6 * image + 0.8 * rng.normal(size=(batch, prototypes))
    return {name: (spread * x).astype(dtype) for name, x in zip(LOGITS, (image, text), strict=True)}


def softmax(z):
    z = np.asarray(z, np.float64)
    exps = np.exp(z - z.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def entropy(p, q):
    """H(p, q) of two vectors, summed prototype by prototype."""
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def oracle(embeds):
    """{term: (loss, d_image_logits, d_text_logits)}, row by row."""
    p, q = (softmax(embeds[name]) for name in LOGITS)
    batch = len(p)
    mean_p, mean_q = p.mean(axis=0), q.mean(axis=0)
    rows = list(zip(p, q, strict=True))
    losses = {
        "nclip_cross_entropy": sum(entropy(a, b) + entropy(b, a) for a, b in rows) / (2 * batch),
        "nclip_sharpness": sum(entropy(a, a) + entropy(b, b) for a, b in rows) / (2 * batch),
        "nclip_smoothness": -(entropy(mean_p, mean_p) + entropy(mean_q, mean_q)) / 2,
    }
    # With respect to probabilities, then through the softmax: dz = p (g - p.g).
    with_respect_to = {
        "nclip_cross_entropy": lambda a, b, mean: -(np.log(b) + b / a),
        "nclip_sharpness": lambda a, b, mean: -(np.log(a) + 1),
        "nclip_smoothness": lambda a, b, mean: np.log(mean) + 1,
    }
    found = {}
    for term, loss in losses.items():
        gradients = []
        for a, b, mean in ((p, q, mean_p), (q, p, mean_q)):
            g = with_respect_to[term](a, b, mean) / (2 * batch)
            gradients.append(a * (g - (a * g).sum(axis=1, keepdims=True)))
        found[term] = (loss, *gradients)
    return found


def only(term):
    return {name: float(name == term) for name in TERMS}


# Values.


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_against_brute_force(dtype, tolerance):
    for spread in (0.1, 1.0, 5.0):
        embeds = logits(12, spread=spread)
        for term, (loss, *gradients) in oracle(embeds).items():
            with jax.enable_x64(dtype == np.float64):
                result = evaluate("nclip", {k: x.astype(dtype) for k, x in embeds.items()}, weights=only(term))
            assert float(result.loss) == pytest.approx(loss, rel=min(tolerance, 2e-6)), term
            assert float(result.terms[term]) == float(result.loss)
            for name, gradient in zip(LOGITS, gradients, strict=True):
                assert distance(result.d_embeds[name], gradient) < tolerance, (term, spread)
            assert result.loss.dtype == dtype


def test_the_gradient_of_the_oracle():
    embeds, weights = logits(5, 4, dtype=np.float64), {"nclip_sharpness": 0.5}
    with jax.enable_x64(True):
        result = evaluate("nclip", embeds)

    def loss(embeds, scalars):
        return sum(weights.get(term, 1.0) * found[0] for term, found in oracle(embeds).items())

    checks.assert_gradient_of(loss, result, embeds, {})


def test_bounds():
    """The best distributions are sharp, equal within pairs, and use all prototypes; one prototype for all is worse."""
    spread = 100 * np.eye(12, dtype=np.float32)
    best = evaluate("nclip", dict.fromkeys(LOGITS, spread))
    assert float(best.loss) == pytest.approx(-math.log(12), rel=1e-5)
    collapsed = evaluate("nclip", dict.fromkeys(LOGITS, np.repeat(spread[:1], 12, axis=0)))
    assert float(collapsed.loss) == pytest.approx(0, abs=1e-6)
    flat = evaluate("nclip", dict.fromkeys(LOGITS, np.zeros_like(spread)))
    assert float(flat.terms["nclip_cross_entropy"]) == pytest.approx(math.log(12), rel=1e-5)
    assert float(flat.loss) == pytest.approx(0.5 * math.log(12), rel=1e-5)


def test_cross_entropy_has_gradient_through_both_arguments():
    """At q = p the gradient is that of H(p, p), which is not zero and makes p sharper."""
    embeds = logits(12)
    both = evaluate("nclip", dict.fromkeys(LOGITS, embeds["image_logits"]), weights=only("nclip_cross_entropy"))
    sharp = evaluate("nclip", dict.fromkeys(LOGITS, embeds["image_logits"]), weights=only("nclip_sharpness"))
    assert distance(whole_gradient(both), whole_gradient(sharp)) < 1e-5


def test_xclip_is_clip_and_nclip():
    embeds = checks.pairs(12) | logits(12)
    result = evaluate("xclip", embeds, clip_weight=0.5, nclip_weight=2.0)
    clip = evaluate("clip", {name: embeds[name] for name in ("image_embeds", "text_embeds")})
    nclip = evaluate("nclip", {name: embeds[name] for name in LOGITS})
    assert float(result.loss) == pytest.approx(0.5 * float(clip.loss) + 2 * float(nclip.loss), rel=1e-6)
    for name, gradient in clip.d_embeds.items():
        assert distance(result.d_embeds[name], 0.5 * gradient) < 1e-6
    for name, gradient in nclip.d_embeds.items():
        assert distance(result.d_embeds[name], 2 * gradient) < 1e-5
    assert float(result.d_scalars["logit_scale"]) == pytest.approx(0.5 * float(clip.d_scalars["logit_scale"]), rel=1e-5)


# Extremes.


@pytest.mark.parametrize("spread", [1.0, 100.0, 1e4])
def test_gradients_are_finite_at_the_extremes(spread):
    embeds = logits(12)
    image = spread * embeds["image_logits"]
    equal = np.repeat(image[:1], 12, axis=0)
    unused = image.copy()
    unused[:, 4] = -1e4  # a prototype with probability exactly 0 in all rows
    for first, second in ((image, spread * embeds["text_logits"]), (equal, equal), (image, -image), (unused, unused)):
        checks.assert_finite(evaluate("nclip", dict(zip(LOGITS, (first, second), strict=True))))


def test_an_unused_prototype_counts_nothing():
    embeds = logits(12)
    without = evaluate("nclip", embeds)
    more = {name: np.concatenate([x, np.full((12, 1), -1e4, np.float32)], axis=1) for name, x in embeds.items()}
    result = evaluate("nclip", more)
    assert float(result.loss) == pytest.approx(float(without.loss), rel=1e-6)
    for name, gradient in without.d_embeds.items():
        assert distance(result.d_embeds[name][:, :-1], gradient) < 1e-6
        assert not np.any(result.d_embeds[name][:, -1])


@pytest.mark.parametrize("name", LOGITS)
def test_nan_reaches_every_term(name):
    embeds = logits(12)
    embeds[name][3, 2] = np.nan
    assert all(np.isnan(value) for value in evaluate("nclip", embeds).terms.values())


# Blocks, devices, order.


def test_nothing_is_gathered():
    assert build("nclip").gathered == ()
    assert build("xclip").gathered == ("image_embeds", "text_embeds")


@pytest.mark.parametrize("name", ["nclip", "xclip"])
@pytest.mark.parametrize("block_rows", [1, 4])
def test_blocks_of_rows_change_nothing(name, block_rows):
    embeds = checks.pairs(12) | logits(12)
    embeds = {key: embeds[key] for key in build(name).inputs}
    checks.assert_same(evaluate(name, embeds), evaluate(name, embeds, block_rows=block_rows))


EIGHT = """
import jax
from tests.support.objective_checks import build, compiled, distance, evaluate, pairs, whole_gradient
from tests.objectives.test_nclip import logits
embeds_of_both = pairs(32) | logits(32)
for name in ("nclip", "xclip"):
    embeds = {key: embeds_of_both[key] for key in build(name).inputs}
    one, eight = (evaluate(name, embeds, block_rows=2, devices=devices) for devices in (1, 8))
    assert distance(eight.loss, one.loss) < 1e-6, (eight.loss, one.loss)
    assert distance(whole_gradient(eight), whole_gradient(one)) < 1e-5
f = compiled("nclip", (), 2, 8)[1]
weights = dict.fromkeys(build("nclip").terms, 1.0)
text = f.lower({key: embeds_of_both[key] for key in build("nclip").inputs}, {}, weights).compile().as_text()
assert "all-reduce" in text and "all-gather" not in text
print("same")
"""


def test_eight_devices_give_what_one_gives():
    """The mean distributions are over the global batch, and logits are not gathered."""
    code, out, err = processes.run(EIGHT, devices=8)
    assert (code, out) == (0, "same\n"), err


def test_the_order_of_the_batch_changes_nothing():
    order = np.random.default_rng(1).permutation(12)
    for spread in (1.0, 10.0):
        embeds = logits(12, spread=spread)
        result = evaluate("nclip", embeds)
        permuted = evaluate("nclip", {name: x[order] for name, x in embeds.items()})
        d_embeds = {name: d[order] for name, d in result.d_embeds.items()}
        checks.assert_same(result._replace(d_embeds=d_embeds), permuted)


def test_bfloat16_logits_are_computed_in_float32():
    embeds = {name: jnp.asarray(x, jnp.bfloat16) for name, x in logits(12).items()}
    result = evaluate("nclip", embeds)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype("float32")}


# Options.


@pytest.mark.parametrize(
    ("name", "changes", "equation"),
    [
        ("nclip", {}, "L = nclip_cross_entropy + 0.5 nclip_sharpness + nclip_smoothness"),
        ("nclip", {"sharpness_weight": 0.0}, "L = nclip_cross_entropy + nclip_smoothness"),
        ("xclip", {}, "L = CLIP + nclip_cross_entropy + 0.5 nclip_sharpness + nclip_smoothness"),
        (
            "xclip",
            {"nclip_weight": 0.7, "clip_weight": 0.3},
            "L = 0.3 CLIP + 0.7 nclip_cross_entropy + 0.35 nclip_sharpness + 0.7 nclip_smoothness",
        ),
    ],
)
def test_equations(name, changes, equation):
    assert build(name, **changes).equation == equation


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "nclip",
            {"sharpness_weight": -1.0},
            r"objective\.sharpness_weight=-1\.0: a weight must be finite and at least 0",
        ),
        ("nclip", {"smoothness_weight": math.nan}, r"objective\.smoothness_weight=nan: a weight must be finite"),
        ("xclip", {"clip_weight": 0.0}, "'xclip' is both clip and nclip: set both weights above 0"),
        ("xclip", {"nclip_weight": 0.0}, "'xclip' is both clip and nclip: set both weights above 0"),
    ],
)
def test_mistakes(name, changes, message):
    with pytest.raises(UserError, match=message):
        build(name, **changes)
