"""RankCLIP with one list of all pairs of the batch."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import rank_batch_list
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.objectives.test_rank_options import (
    BATCH,
    OPTIONS,
    TERMS,
    build,
    distance,
    evaluate,
    gradients,
    pairs,
)
from tests.support import processes
from tests.support.paths import VECTORS

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")


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
    embeds = dict.fromkeys(objective.inputs, jnp.zeros((9, 2)))
    weights = dict.fromkeys(TERMS, jnp.float32(1))
    with pytest.raises(UserError, match="goes up to a batch of 8, not 9: use list_scope='row'"):
        jax.eval_shape(f, embeds, {"logit_scale": jnp.float32(1)}, weights)
    assert rank_batch_list.MAX_BATCH == 8


def test_eight_devices_are_one():
    code, out, err = processes.run(
        """
        import jax
        from tests import test_rankclip_options as t
        from rankclip_jax.parallel.mesh import make_mesh
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
