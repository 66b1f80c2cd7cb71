"""Progressive self-distillation: brute force, the subset, its growth, extremes, blocks, devices, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.distill import lowest, unaligned_share
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.support import objective_checks as checks
from tests.support.objective_checks import build, distance, evaluate, pairs

TERMS = ("aligned", "distilled")
TAU = 0.2
BY_SIMILARITY = {"subset": "similarity", "unaligned_end": 0.5}


def softmax(row):
    shares = np.exp(row - row.max())
    return shares / shares.sum()


def distill(unaligned, teacher):
    """{term: loss} of (embeds, scalars), row by row, with the soft targets of `teacher` for rows `unaligned`."""

    def losses(embeds, scalars):
        found, batch = dict.fromkeys(TERMS, 0.0), len(embeds["image_embeds"])
        for a, b in (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")):
            for i in range(batch):
                p = softmax(np.exp(scalars["logit_scale"]) * embeds[b] @ embeds[a][i])
                # Swapped: image i learns from the distribution of text i over images.
                soft = softmax(teacher[a] @ teacher[b][i] / TAU)
                target = soft if i in unaligned else np.eye(batch)[i]
                found["distilled" if i in unaligned else "aligned"] -= (target * np.log(p)).sum() / (2 * batch)
        return found

    return losses


def least_similar(embeds, count):
    return np.argsort((embeds["image_embeds"] * embeds["text_embeds"]).sum(axis=1))[:count].tolist()


@pytest.mark.parametrize("step", [0, 50, 100])
def test_against_brute_force(step):
    """The differences keep targets and subset constant, so a gradient into them would be detected."""
    embeds, scalars = pairs(6, 4, dtype=np.float64), {"logit_scale": np.log(9.0)}
    unaligned = least_similar(embeds, {0: 0, 50: 2, 100: 4}[step])
    oracle = distill(unaligned, embeds)
    with jax.enable_x64(True):
        result = evaluate(
            "distill", embeds, 9.0, step=step, subset="similarity", unaligned_end=2 / 3, target_temperature=TAU
        )
    wanted = oracle(embeds, scalars)
    for name in TERMS:
        assert float(result.terms[name]) == pytest.approx(wanted[name], rel=1e-10)
    checks.assert_gradient_of(lambda e, s: sum(oracle(e, s).values()), result, embeds, scalars)
    assert result.loss.dtype == "float64"


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_float32(scale):
    embeds = pairs(24)
    wide = {name: x.astype(np.float64) for name, x in embeds.items()}
    options = BY_SIMILARITY | {"target_temperature": TAU}
    wanted = distill(least_similar(wide, 6), wide)(wide, {"logit_scale": np.log(scale)})
    single = evaluate("distill", embeds, scale, step=50, **options)
    for name in TERMS:
        assert float(single.terms[name]) == pytest.approx(wanted[name], rel=1e-6)
    with jax.enable_x64(True):
        double = evaluate("distill", wide, scale, step=50, **options)
    assert distance(checks.whole_gradient(single), checks.whole_gradient(double)) < 1e-5


def test_it_starts_as_clip():
    embeds = pairs(24)
    start, clip = evaluate("distill", embeds, step=0), evaluate("clip", embeds)
    assert float(start.terms["aligned"]) == pytest.approx(float(clip.loss), rel=1e-6)
    assert float(start.terms["distilled"]) == 0.0
    assert distance(checks.whole_gradient(start), checks.whole_gradient(clip)) < 1e-6


# The subset.


def test_the_share_grows_by_half_a_cosine():
    found = [float(unaligned_share(step, 100, 0.2, 0.8)) for step in (0, 25, 50, 100, 120)]
    assert found == pytest.approx([0.2, 0.5 - 0.3 * 2**-0.5, 0.5, 0.8, 0.8])
    assert float(unaligned_share(0, 100, 0.5, 0.5)) == float(unaligned_share(70, 100, 0.5, 0.5)) == 0.5


def test_lowest():
    order = jnp.array([3.0, 1.0, 2.0, 1.0, 5.0])
    chosen = {count: lowest(order, jnp.arange(5), count).tolist() for count in (0, 1, 2, 3, 5)}
    assert chosen[0] == [False] * 5
    assert chosen[1] == chosen[2] == [False, True, False, True, False]  # ties are all in or all out
    assert chosen[3] == [False, True, True, True, False]
    assert chosen[5] == [True] * 5
    assert lowest(order, jnp.array([4, 1]), 3).tolist() == [False, True]  # global indices of the rows


def unaligned_rows(batch, step, **how):
    """Rows without a one-hot target. Pair i is axis i: along it, only the loss of row i has a gradient for row i."""
    eye = np.eye(batch, dtype=np.float32)
    weights = {"aligned": 1.0, "distilled": 0.0}
    embeds = {"image_embeds": eye, "text_embeds": eye}
    result = evaluate("distill", embeds, 2.0, step=step, weights=weights, unaligned_end=0.5, **how)
    return np.flatnonzero(np.diag(result.d_embeds["image_embeds"]) == 0).tolist()


def test_random_rows_have_the_right_count_and_change_at_every_step():
    batch = 16
    for step in (0, 40, 50, 100):
        assert len(unaligned_rows(batch, step)) == round(batch * float(unaligned_share(step, 100, 0.0, 0.5)))
    assert unaligned_rows(batch, 50) == unaligned_rows(batch, 50)
    draws = [unaligned_rows(batch, step) for step in range(100, 164)]
    often = np.bincount(np.concatenate(draws), minlength=batch)
    assert often.sum() == 64 * 8
    assert often.min() > 16 and often.max() < 48  # expected 32 each, standard deviation 4


def test_random_rows_do_not_depend_on_the_embeddings_or_the_blocks():
    assert unaligned_rows(16, 70, block_rows=4) == unaligned_rows(16, 70)
    # The rows with the lowest values of a draw that depends on the step only.
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 70)
    drawn = np.asarray(jax.random.bits(key, (16,)))
    count = len(unaligned_rows(16, 70))
    assert unaligned_rows(16, 70) == sorted(np.argsort(drawn)[:count].tolist())


def test_similar_pairs_keep_their_one_hot_targets():
    """All pairs have the same cosine, so all are in: the order of the batch never splits a tie."""
    assert unaligned_rows(16, 0, subset="similarity") == []
    assert unaligned_rows(16, 100, subset="similarity") == list(range(16))


@pytest.mark.parametrize(("subset", "block_rows"), [("random", 4), ("similarity", 1), ("similarity", 3)])
def test_blocks_of_rows_change_nothing(subset, block_rows):
    embeds, how = pairs(12), {"subset": subset, "step": 60}
    checks.assert_same(evaluate("distill", embeds, **how), evaluate("distill", embeds, block_rows=block_rows, **how))


def test_eight_devices_give_what_one_gives():
    checks.assert_same_on_eight_devices(
        ("distill", {"step": 60, "block_rows": 2}), ("distill", {"step": 60, "subset": "similarity"})
    )


def test_the_order_of_the_batch_changes_nothing():
    """By similarity only: the random subset is drawn by index in the batch."""
    checks.assert_order_is_irrelevant("distill", pairs(44), step=60, subset="similarity")
    checks.assert_order_is_irrelevant("distill", pairs(44), step=0)


def test_gradients_are_finite_at_the_extremes():
    for embeds in checks.extremes():
        for step in (0, 100):
            checks.assert_finite(evaluate("distill", embeds, 100.0, step=step, target_temperature=1e-3))


def test_nan_reaches_every_term():
    embeds = pairs(7)
    embeds["text_embeds"][3, 2] = np.nan
    assert all(np.isnan(value) for value in evaluate("distill", embeds, step=60).terms.values())


# Options.


@pytest.mark.parametrize(
    ("changes", "equation"),
    [
        ({}, "share 0 to 0.5 by cosine, chosen at random, targets at temperature 0.07"),
        (
            {"unaligned_start": 0.25, "unaligned_end": 1.0, "subset": "similarity", "target_temperature": 0.1},
            "share 0.25 to 1 by cosine, chosen by similarity, targets at temperature 0.1",
        ),
    ],
)
def test_equations(changes, equation):
    objective = build("distill", **changes)
    assert objective.equation == f"L = aligned + distilled, unaligned {equation}"
    assert set(objective.weights(jnp.int32(0))) == set(objective.terms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unaligned_start": -0.1}, r"objective\.unaligned_start=-0\.1: it must be a finite number from 0 to 1"),
        ({"unaligned_end": 1.5}, r"objective\.unaligned_end=1\.5: it must be a finite number from 0 to 1"),
        ({"target_temperature": -1.0}, r"objective\.target_temperature=-1\.0: it must be a finite number above 0"),
        ({"subset": "randon"}, r"unknown objective.subset 'randon'. Did you mean 'random'\?"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build("distill", **changes)


def test_the_random_subset_depends_on_the_seed_of_the_run():
    embeds = pairs(24)

    def distilled(seed):
        objective = build("distill", run=(100, 10, seed), unaligned_start=0.5)
        compute = jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:1])))
        weights = {name: jnp.float32(1) for name in TERMS}
        return float(compute(embeds, {"logit_scale": jnp.float32(2.0)}, weights).terms["distilled"])

    assert distilled(0) == distilled(0)
    assert abs(distilled(0) - distilled(1)) > 1e-3
