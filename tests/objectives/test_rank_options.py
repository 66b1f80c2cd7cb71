"""RankCLIP's options: rank weights and top k with ties, one list of all pairs, lists without their own pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.objectives.rank_terms import without_own
from tests.support import objective_checks as checks
from tests.support.objective_checks import unit
from tests.support.oracles import rank_term

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")

TERMS = ("clip", "rank_cross", "rank_in_modal")
BATCH = 16  # the same in all tests, which share compiled functions


def build(**changes):
    return checks.build("rankclip", **{"ramp": "none"} | changes)


def evaluate(image, text, scale, term=None, dtype=np.float32, **how):
    """The objective with `term` only, or with all terms; `how` as in `objective_checks.evaluate`."""
    embeds = {"image_embeds": np.asarray(image, dtype), "text_embeds": np.asarray(text, dtype)}
    weights = {name: float(term in (None, name)) for name in TERMS}
    return checks.evaluate("rankclip", embeds, scale, weights=weights, ramp="none", **how)


def pairs(batch, dim=16):
    """Unit-norm embeddings of related images and texts; texts 0 and 1 are equal, and images 2 and 3."""
    image, text = checks.pairs(batch, dim).values()
    if batch > 3:
        image[3], text[1] = image[2], text[0]
    return image, text


def distance(found, expected):
    return checks.distance(*(np.concatenate([np.ravel(x) for x in parts]) for parts in (found, expected)))


def gradients(result):
    return [result.d_embeds["image_embeds"], result.d_embeds["text_embeds"], result.d_scalars["logit_scale"]]


# (options of the objective, options of the oracle). Each costs a compilation; tests/objectives/research has more.
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
        loss, *expected = rank_term(image, text, 14.3, term, **how)
        assert float(result.loss) == pytest.approx(loss, rel=1e-5)
        assert distance(gradients(result), expected) < 1e-4


def test_options_in_float64():
    changes, how = OPTIONS[1]
    with jax.enable_x64(True):
        image, text = (np.float64(x) for x in pairs(BATCH))
        image, text = unit(image), unit(text)
        for term in TERMS[1:]:
            result = evaluate(image, text, 14.3, term, np.float64, **changes)
            loss, *expected = rank_term(image, text, 14.3, term, **how)
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
