"""RankCLIP's options: position weights and top k with ties, one list of all pairs, own pairs, fixed and detached."""

import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import emoji
from rankclip_jax.errors import UserError
from rankclip_jax.objectives import RunLength, build_objective, listmle, objective_config, rank_batch_list
from rankclip_jax.objectives.list_positions import Positions, mean_weights, weights_in_order
from rankclip_jax.objectives.listmle import listmle_exact, listmle_released
from rankclip_jax.objectives.rank_terms import without_own
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.sharding import make_mesh
from tests import processes

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")

VECTORS = pathlib.Path(__file__).parent / "vectors"
TERMS = ("clip", "rank_cross", "rank_in_modal")
BATCH = 16  # of all tests alike: they share compiled functions
CHOICES = [(0, "log"), (1, "none"), (3, "none"), (3, "log"), (8, "log"), (100, "none")]
POSITIONS = pytest.mark.parametrize("positions", [Positions(*choice) for choice in CHOICES])


# The oracle: sets and one rank at a time, in float64.


def item_weights(reference, top_k, decay):
    """Weight of each item of one list: the mean over the ranks its tie group takes, the group at rank k whole."""
    weights = []
    for value in reference:
        best = 1 + sum(reference > value)
        ranks = range(best, best + sum(reference == value))
        each = [1 / math.log(rank + 1) if decay == "log" else 1.0 for rank in ranks]
        weights.append(sum(each) / len(each) if top_k == 0 or best <= top_k else 0.0)
    return np.array(weights)


def oracle(utility, reference, top_k=0, decay="none"):
    """Loss [C] and gradient [C, B]: sum_k w_k [log D_k - u_k], D_k over the set {l: ref_l <= ref_k}."""
    losses, gradients = [], []
    for u, ref in zip(np.float64(utility), np.float64(reference), strict=True):
        w = item_weights(ref, top_k, decay)
        shares = np.array([np.where(ref <= value, np.exp(u - u.max()), 0) for value in ref])
        log_d = np.log(shares.sum(axis=1)) + u.max()
        losses.append(np.sum(w * (log_d - u)))
        gradients.append(w @ (shares / shares.sum(axis=1, keepdims=True)) - w)
    return np.array(losses), np.array(gradients)


@functools.partial(jax.jit, static_argnums=(0, 3))
def loss_and_gradient(loss_fn, utility, reference, positions):
    loss, pull = jax.vjp(lambda u: loss_fn(u, reference, positions), utility)
    return loss, pull(jnp.ones_like(loss))[0]


def lists(rows, items, scale, levels=0, seed=0):
    rng = np.random.default_rng(seed)
    utility = scale * rng.uniform(-1, 1, (rows, items))
    reference = rng.integers(0, levels, (rows, items)) / 4 if levels else rng.uniform(-1, 1, (rows, items))
    return utility.astype(np.float32), reference.astype(np.float32)


def assert_close(found, expected, tolerance):
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)


# Weights of positions.


def three_items(reference, positions):
    loss, gradient = loss_and_gradient(listmle_exact, np.float32([[1, 0, -1]]), np.float32([reference]), positions)
    return float(loss[0]), np.asarray(gradient[0])


A, B, C = math.e, 1.0, 1 / math.e  # exponentials of the three utilities
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def test_three_items_with_falling_weights_by_hand():
    """Order by reference: item 2, item 0, item 1; they weigh 1/ln 2, 1/ln 3, 1/ln 4."""
    loss, gradient = three_items([0.2, 0.1, 0.3], Positions(0, "log"))
    first, second = (math.log(A + B + C) + 1) / LN2, (math.log(A + B) - 1) / LN3
    assert loss == pytest.approx(first + second, rel=1e-6)  # the last one is alone
    of_item_0 = A / (A + B + C) / LN2 + A / (A + B) / LN3 - 1 / LN3
    np.testing.assert_allclose(gradient[[0, 2]], [of_item_0, C / (A + B + C) / LN2 - 1 / LN2], rtol=1e-5)
    assert gradient.sum() == pytest.approx(0, abs=1e-6)


def test_three_items_of_which_one_counts_by_hand():
    loss, gradient = three_items([0.2, 0.1, 0.3], Positions(1, "none"))
    assert loss == pytest.approx(math.log(A + B + C) + 1, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([A, B, C]) / (A + B + C) - [0, 0, 1], rtol=1e-5)


def test_three_items_with_a_tie_by_hand():
    """Items 0 and 1 share ranks 1 and 2: both weigh the mean, and both count where the first does."""
    loss, _ = three_items([0.3, 0.3, 0.1], Positions(1, "log"))
    mean = (1 / LN2 + 1 / LN3) / 2
    assert loss == pytest.approx(mean * (2 * math.log(A + B + C) - 1 - 0), rel=1e-6)
    # At ranks 2 and 3, the first of them counts: both do.
    loss, _ = three_items([0.1, 0.1, 0.3], Positions(2, "log"))
    mean = (1 / LN3 + 1 / LN4) / 2
    assert loss == pytest.approx((math.log(A + B + C) + 1) / LN2 + mean * (2 * math.log(A + B) - 1), rel=1e-6)


@POSITIONS
@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_weighted_lists_against_the_oracle(positions, levels, scale):
    utility, reference = lists(4, 23, scale, levels)
    expected = oracle(utility, reference, *positions)
    assert_close(loss_and_gradient(listmle_exact, utility, reference, positions), expected, 2e-5 + 1e-6 * scale)


@POSITIONS
def test_weighted_lists_in_float64(positions):
    with jax.enable_x64(True):
        given = [np.float64(x) for x in lists(3, 23, 14.3, levels=6)]
        found = loss_and_gradient(listmle_exact, *given, positions)
        assert {x.dtype for x in found} == {np.dtype("float64")}
        assert_close(found, oracle(*given, *positions), 1e-11)


@pytest.mark.parametrize("levels", [0, 4])
def test_few_long_lists_take_the_other_recurrence(levels, monkeypatch):
    """On CPU too: a scan over the ranks of one list is slow. It is also what accelerators run."""
    monkeypatch.setattr(listmle, "FEW_LISTS", 10)
    assert listmle._recurrences(30, 2)[0] is listmle._prefix_sums_associative
    given = lists(2, 30, 14.3, levels)
    found = loss_and_gradient(lambda *x: listmle_exact(*x), *given, Positions(7, "log"))
    assert_close(found, oracle(*given, 7, "log"), 2e-5)


def test_counting_every_position_is_the_plain_list():
    given = lists(4, 23, 14.3, levels=5)
    plain = loss_and_gradient(listmle_exact, *given, Positions())
    assert_close(loss_and_gradient(listmle_exact, *given, Positions(23)), plain, 1e-6)


def test_weights_are_exact_far_down_a_long_list():
    """A pair of ties at the end of 30,000 items, where sums over the list have lost their digits."""
    items = 30_000
    tied = np.ones((items, 1), np.float32)
    tied[[1, 15_001]] = 2.0
    found = np.asarray(mean_weights(tied, Positions(0, "log")))[:, 0]
    each = weights_in_order(items, Positions(0, "log"))
    assert each[0] == 1 / math.log(items + 1) and each[-1] == 1 / LN2
    for place in (1, 15_001):
        assert found[place] == pytest.approx((each[place] + each[place - 1]) / 2, rel=3e-7)
    np.testing.assert_allclose(found[2:15_000], each[2:15_000], rtol=3e-7)


@POSITIONS
def test_ties_make_the_order_of_weighted_items_irrelevant(positions):
    utility, reference = lists(4, 40, 14.3, levels=5)
    order = np.random.default_rng(1).permutation(40)
    loss, gradient = loss_and_gradient(listmle_exact, utility, reference, positions)
    permuted = loss_and_gradient(listmle_exact, utility[:, order], reference[:, order], positions)
    np.testing.assert_allclose(permuted[0], loss, rtol=1e-6)
    np.testing.assert_allclose(permuted[1], gradient[:, order], rtol=1e-4, atol=1e-5)


@POSITIONS
def test_released_lists_are_weighted_by_argsort_position(positions):
    """Without ties, and at a scale where its epsilon is nothing, it is the exact loss."""
    given = lists(4, 23, 2.0)
    assert_close(loss_and_gradient(listmle_released, *given, positions), oracle(*given, *positions), 1e-5)


# The objective.


def build(length=(100, 10), **changes):
    config = objective_config("rankclip").to_dict() | {"ramp": "none"} | changes
    return build_objective(ConfigDict(config), RunLength(*length))


@functools.cache
def compiled(block_rows, **changes):
    return jax.jit(loss_and_gradients(build(**changes), make_mesh(jax.devices()[:1]), block_rows))


def evaluate(image, text, scale, term=None, dtype=jnp.float32, block_rows=0, **changes):
    """The objective with only `term`, or with all of them."""
    return compiled(block_rows, **changes)(
        {"image_embeds": jnp.asarray(image, dtype), "text_embeds": jnp.asarray(text, dtype)},
        {"log_scale": jnp.asarray(math.log(scale), dtype)},
        {name: jnp.asarray(float(term in (None, name)), dtype) for name in TERMS},
    )


def pairs(batch, dim=16, seed=0):
    """Unit-norm embeddings of related pictures and texts; the first two texts, and pictures 2 and 3, are equal."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, dim)) + rng.normal(size=dim)
    text = image / 2 + rng.normal(size=(batch, dim))
    if batch > 3:
        image[3], text[1] = image[2], text[0]
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text))


def term_oracle(image, text, scale, term, scope="row", diagonal=True, **positions):
    """(loss, d_image, d_text, d_log_scale) of a ranking term in float64."""
    v, t = np.float64(image), np.float64(text)
    if term == "rank_cross":
        first, second = v @ t.T, t @ v.T
    else:
        first, second = v @ v.T, t @ t.T
    batch = len(v)
    keep = np.ones((batch, batch), bool) if diagonal else ~np.eye(batch, dtype=bool)
    shape = (1, -1) if scope == "batch" else (batch, -1)
    total, d = 0.0, []
    for utility, reference in ((first, second), (second, first)):
        # Duplicates must tie, whatever order their products were summed in.
        u, ref = scale * utility[keep].reshape(shape), np.round(reference[keep].reshape(shape), 6)
        loss, gradient = oracle(u, ref, **positions)
        full = np.zeros((batch, batch))
        full[keep] = gradient.ravel() / (32 * batch**2)
        total += loss.sum() / (32 * batch**2)
        d.append(full)
    if term == "rank_cross":
        d_v, d_t = scale * (d[0] @ t + d[1].T @ t), scale * (d[0].T @ v + d[1] @ v)
    else:
        d_v, d_t = scale * (d[0] + d[0].T) @ v, scale * (d[1] + d[1].T) @ t
    return total, d_v, d_t, scale * ((d[0] * first).sum() + (d[1] * second).sum())


def distance(found, expected):
    found, expected = (np.concatenate([np.ravel(np.float64(x)) for x in parts]) for parts in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def gradients(result):
    return [result.d_embeds["image_embeds"], result.d_embeds["text_embeds"], result.d_scalars["log_scale"]]


# Each costs a compilation; more combinations are among the lists above and the vectors below.
OPTIONS = [
    ({"position_weight": "log", "top_k": 5}, {"decay": "log", "top_k": 5}),
    ({"include_diagonal": False}, {"diagonal": False}),
    (
        {"list_scope": "batch", "include_diagonal": False, "top_k": 20},
        {"scope": "batch", "diagonal": False, "top_k": 20},
    ),
]


@pytest.mark.parametrize(
    ("changes", "how", "block_rows"), [(*option, 0) for option in OPTIONS] + [(*OPTIONS[1], 1), (*OPTIONS[2], 4)]
)
def test_options_against_the_oracle(changes, how, block_rows):
    image, text = pairs(BATCH)
    for term in TERMS[1:]:
        result = evaluate(image, text, 14.3, term, block_rows=block_rows, **changes)
        loss, *expected = term_oracle(image, text, 14.3, term, **how)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert distance(gradients(result), expected) < 1e-4


def test_options_in_float64():
    changes, how = OPTIONS[1]
    with jax.enable_x64(True):
        image, text = (np.float64(x) for x in pairs(BATCH))
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        for term in TERMS[1:]:
            result = evaluate(image, text, 14.3, term, jnp.float64, **changes)
            loss, *expected = term_oracle(image, text, 14.3, term, **how)
            assert float(result.loss) == pytest.approx(loss, rel=1e-10)
            assert distance(gradients(result), expected) < 1e-10


@pytest.mark.parametrize(("changes", "how"), OPTIONS)
@pytest.mark.parametrize("kind", ["related", "all equal", "zero rows"])
def test_options_have_finite_gradients_at_scale_100(changes, how, kind):
    image, text = pairs(BATCH)
    if kind == "all equal":
        image = text = np.repeat(image[:1], BATCH, axis=0)
    if kind == "zero rows":
        image[4] = text[4] = text[6] = 0
    result = evaluate(image, text, 100.0, **changes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


@pytest.mark.parametrize(("changes", "how"), OPTIONS)
def test_options_follow_a_permuted_batch(changes, how):
    image, text = pairs(BATCH)
    order = np.random.default_rng(1).permutation(BATCH)
    result, permuted = (evaluate(*x, 14.3, **changes) for x in ((image, text), (image[order], text[order])))
    assert float(permuted.loss) == pytest.approx(float(result.loss), rel=1e-6)
    for name, gradient in result.d_embeds.items():
        assert distance([permuted.d_embeds[name]], [gradient[order]]) < 1e-4


def test_a_single_pair_without_its_own_pair():
    for scope in ("row", "batch"):
        result = evaluate(*pairs(1), 14.3, "rank_cross", include_diagonal=False, list_scope=scope)
        assert float(result.loss) == 0.0
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def test_without_own():
    rows = jnp.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(without_own(rows, jnp.array([1, 3])), [[0, 2, 3], [4, 5, 6]])


# One list of all pairs.


def batch_list_cases():
    for path in sorted(VECTORS.glob("*.json")):
        content = json.loads(path.read_text())
        for case in content["cases"]:
            if case["term"].endswith("_batch_list"):
                scale = math.exp(case["log_scale"])
                yield pytest.param(content, case, id=f"{path.stem[11:]}-{case['term']}-scale{scale:.0f}")


@pytest.mark.parametrize(("content", "case"), list(batch_list_cases()))
def test_one_list_against_the_vectors(content, case):
    term = case["term"].removesuffix("_batch_list")
    expected = [case["d_image"], case["d_text"], case["d_log_scale"]]
    exact = len(content["image"]) < 12  # compilations saved
    for dtype, loss_tolerance, tolerance in ((jnp.float32, 1e-6, 1e-5), (jnp.float64, 1e-10, 1e-10))[: 1 + exact]:
        with jax.enable_x64(dtype is jnp.float64):
            given = content["image"], content["text"], math.exp(case["log_scale"])
            result = evaluate(*given, term, dtype, list_scope="batch")
            assert float(result.loss) == pytest.approx(case["loss"], rel=loss_tolerance)
            assert distance(gradients(result), expected) < tolerance


def test_every_file_has_lists_of_all_pairs():
    assert len(list(batch_list_cases())) == 18


def test_one_list_is_refused_for_a_large_batch(monkeypatch):
    monkeypatch.setattr(rank_batch_list, "MAX_BATCH", 8)
    objective = build(list_scope="batch")
    f = loss_and_gradients(objective, make_mesh(jax.devices()[:1]))
    embeds = dict.fromkeys(objective.needs, jnp.zeros((9, 2)))
    weights = dict.fromkeys(TERMS, jnp.float32(1))
    with pytest.raises(UserError, match="goes up to a batch of 8, not 9: use list_scope='row'"):
        jax.eval_shape(f, embeds, {"log_scale": jnp.float32(1)}, weights)
    assert rank_batch_list.MAX_BATCH == 8


def test_eight_devices_are_one():
    code, out, err = processes.run(
        """
        import jax
        from tests import test_rankclip_options as t
        from rankclip_jax.sharding import make_mesh
        for changes, _ in t.OPTIONS[1:]:
            f = jax.jit(t.loss_and_gradients(t.build(**changes), make_mesh()))
            t.compiled = lambda *_, **__: f
            result = t.evaluate(*t.pairs(t.BATCH), 14.3, **changes)
            assert len(result.d_embeds["image_embeds"].sharding.device_set) == 8
            print([float(result.loss), *(x.tolist() for x in t.gradients(result))])
        """,
        devices=8,
        seconds=120,
    )
    assert code == 0, err
    for (changes, _), line in zip(OPTIONS[1:], out.splitlines(), strict=True):
        loss, *found = json.loads(line)
        one = evaluate(*pairs(BATCH), 14.3, **changes)
        assert loss == pytest.approx(float(one.loss), rel=1e-6)
        assert distance(found, gradients(one)) < 1e-5


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
        loss, *expected = term_oracle(image, text, 14.3, term)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert distance(gradients(result)[:2], expected[:2]) < 1e-4
        assert float(result.d_scalars["log_scale"]) == 0.0
    everything, clip = (evaluate(image, text, 14.3, term, detach_scale=True) for term in (None, "clip"))
    assert float(everything.d_scalars["log_scale"]) == pytest.approx(float(clip.d_scalars["log_scale"]), rel=1e-5)
    assert float(clip.d_scalars["log_scale"]) != 0.0


def test_the_released_preset():
    config = emoji.get_config("rankclip_released").objective
    assert (config.arithmetic, config.ramp, config.list_scope) == ("released", "epoch", "row")
    objective = build_objective(config, RunLength(70, 10))
    assert objective.name == "rankclip_released"
    assert objective.equation == "L = CLIP + clip(3 (e-1)/(E-1), 0, 2) (cross + in_modal), released ListMLE"
    assert [weight_at(objective, step)["rank_cross"] for step in (0, 10, 69)] == [0.0, 0.5, 2.0]
    with pytest.raises(UserError, match="needs 2 epochs or more, not 1"):
        build_objective(config, RunLength(10, 10))


def test_the_released_preset_has_the_released_terms():
    content = json.loads((VECTORS / "objectives_b24_d8.json").read_text())
    case = next(c for c in content["cases"] if c["term"] == "rank_in_modal_released" and c["log_scale"] > 4)
    config = objective_config("rankclip_released")
    objective = build_objective(config, RunLength(70, 10))
    only = dataclasses.replace(objective, terms={"rank_in_modal": objective.terms["rank_in_modal"]})
    result = jax.jit(loss_and_gradients(only, make_mesh(jax.devices()[:1])))(
        {"image_embeds": jnp.float32(content["image"]), "text_embeds": jnp.float32(content["text"])},
        {"log_scale": jnp.float32(case["log_scale"])},
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
        ({"fixed_weight": -1.0}, "objective.fixed_weight=-1.0 must be above 0"),
        ({"fixed_weight": float("nan")}, "objective.fixed_weight=nan must be above 0"),
        ({"fixed_weight": 0.5, "ramp": "step"}, "fixed_weight=0.5 has no meaning with objective.ramp='step'"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)
