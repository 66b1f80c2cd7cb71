"""The two public SoftCLIP-like recipes: brute force in float64, blocks, devices, options."""

import jax
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from tests.support import objective_checks as checks
from tests.support.objective_checks import build, evaluate, pairs

BOTH = (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds"))


def softmax(row):
    shares = np.exp(row - row.max())
    return shares / shares.sum()


def mixed(term, share=0.7):
    """The soft terms of `softclip_mixed`, row by row: targets at the learned scale, which carry gradient."""

    def loss(embeds, scalars):
        scale, batch, total = np.exp(scalars["logit_scale"]), len(embeds["image_embeds"]), 0.0
        for a, b in BOTH:
            for i in range(batch):
                kept = [j for j in range(batch) if term == "soft_targets" or j != i]
                q = softmax(scale * embeds[a][kept] @ embeds[a][i])
                p = softmax(scale * embeds[b][kept] @ embeds[a][i])
                if term == "soft_targets":
                    q = share * np.eye(batch)[i] + (1 - share) * q
                total += (q * np.log(q / p)).sum() / (2 * batch)
        return total

    return loss


def labelled(teacher, share):
    """`softclip_labels`, entry by entry, with labels of the texts `teacher`, which stay constant."""

    def loss(embeds, scalars):
        scale, batch, total = np.exp(scalars["logit_scale"]), len(embeds["image_embeds"]), 0.0
        for a, b in BOTH:
            for i in range(batch):
                logs = np.log(softmax(scale * embeds[b] @ embeds[a][i]))
                for j in range(batch):
                    label = share * (i == j) + (1 - share) * teacher[i] @ teacher[j]
                    total -= label * logs[j] / (2 * batch)
        return total

    return loss


@pytest.mark.parametrize("term", ["soft_targets", "soft_negatives"])
def test_the_mixed_recipe_against_brute_force(term):
    """The differences move the targets too: a detached target would be detected."""
    embeds, scalars = pairs(6, 4, dtype=np.float64), {"logit_scale": np.log(9.0)}
    weights = {name: float(name == term) for name in ("clip", "soft_targets", "soft_negatives")}
    with jax.enable_x64(True):
        result = evaluate("softclip_mixed", embeds, 9.0, weights=weights)
    assert float(result.loss) == pytest.approx(mixed(term)(embeds, scalars), rel=1e-10)
    checks.assert_gradient_of(mixed(term), result, embeds, scalars)


@pytest.mark.parametrize("share", [0.7, 0.0, 1.0])
def test_the_labels_recipe_against_brute_force(share):
    embeds, scalars = pairs(6, 4, dtype=np.float64), {"logit_scale": np.log(9.0)}
    oracle = labelled(embeds["text_embeds"], share)
    with jax.enable_x64(True):
        result = evaluate("softclip_labels", embeds, 9.0, one_hot_share=share)
        clip = evaluate("clip", embeds, 9.0)
    assert float(result.loss) == pytest.approx(oracle(embeds, scalars), rel=1e-10)
    checks.assert_gradient_of(oracle, result, embeds, scalars)
    assert (float(result.loss) == pytest.approx(float(clip.loss), rel=1e-10)) == (share == 1)


def test_mixing_detached_targets_changes_only_the_weights():
    """CLIP + [0.7 one-hot + 0.3 soft] + 1/2 negatives = 1.7 (CLIP + 3/17 soft + 5/17 negatives), but for a constant."""
    embeds, forward = pairs(12), {"divergence": "forward"}
    shared = evaluate("softclip", embeds, one_hot_share=0.7, soft_weight=1.0, negatives_weight=0.5, **forward)
    weighted = evaluate("softclip", embeds, soft_weight=3 / 17, negatives_weight=5 / 17, **forward)
    found, wanted = checks.whole_gradient(shared), 1.7 * checks.whole_gradient(weighted)
    assert checks.distance(found, wanted) < 1e-5


@pytest.mark.parametrize("name", ["softclip_mixed", "softclip_labels"])
def test_blocks_order_extremes_and_devices(name):
    embeds = pairs(12)
    whole = evaluate(name, embeds)
    for block_rows in (1, 5):
        checks.assert_same(whole, evaluate(name, embeds, block_rows=block_rows))
    checks.assert_order_is_irrelevant(name, pairs(44))
    for extreme in checks.extremes():
        checks.assert_finite(evaluate(name, extreme, 100.0))


def test_eight_devices_give_what_one_gives():
    checks.assert_same_on_eight_devices(("softclip_mixed", {"block_rows": 2}), ("softclip_labels", {"block_rows": 2}))


def test_equations():
    said = "forward KL, targets at temperature 1/s, 0.7 one-hot, targets with gradient"
    assert build("softclip_mixed").equation == f"L = CLIP + 0.1 soft_targets + 0.1 soft_negatives, {said}"
    assert build("softclip_labels").equation == "L = soft_labels, 0.7 one-hot and 0.3 cosines of texts"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("softclip", {"one_hot_share": 1.0}, r"one_hot_share=1\.0: it must be a finite number from 0 to 0\.999"),
        ("softclip_labels", {"one_hot_share": 1.5}, r"one_hot_share=1\.5: it must be a finite number from 0 to 1"),
        (
            "softclip_mixed",
            {"target_temperature": -1.0},
            r"target_temperature=-1\.0: it must be a finite number from 0",
        ),
    ],
)
def test_mistakes(name, changes, message):
    with pytest.raises(UserError, match=message):
        build(name, **changes)
