"""RankCLIP with one list of all pairs of the batch."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.research import batch_list
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from tests.objectives.test_rank_options import TERMS, build, distance, evaluate, gradients
from tests.support import processes
from tests.support.paths import VECTORS

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("rankclip_options")


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
    small = len(content["image"]) < 12  # float64 for small batches only, to save compilations
    for dtype, loss_tolerance, tolerance in ((np.float32, 1e-6, 1e-5), (np.float64, 1e-10, 1e-10))[: 1 + small]:
        with jax.enable_x64(dtype is np.float64):
            given = content["image"], content["text"], math.exp(case["log_scale"])
            result = evaluate(*given, term, dtype, list_scope="batch")
            assert float(result.loss) == pytest.approx(case["loss"], rel=loss_tolerance)
            assert distance(gradients(result), expected) < tolerance


def test_every_file_has_lists_of_all_pairs():
    assert len(list(batch_list_cases())) == 18


def test_one_list_is_refused_for_a_large_batch(monkeypatch):
    monkeypatch.setattr(batch_list, "MAX_BATCH", 8)
    objective = build(list_scope="batch")
    f = loss_and_gradients(objective, make_mesh(jax.devices()[:1]))
    embeds = dict.fromkeys(objective.inputs, jnp.zeros((9, 2)))
    weights = dict.fromkeys(TERMS, jnp.float32(1))
    with pytest.raises(UserError, match="allows a batch of at most 8, not 9: use list_scope='row'"):
        jax.eval_shape(f, embeds, {"logit_scale": jnp.float32(1)}, weights)


EIGHT = """
from tests.objectives.test_rank_options import BATCH, OPTIONS, distance, evaluate, gradients, pairs
for changes, _ in OPTIONS[1:]:
    one, eight = (evaluate(*pairs(BATCH), 14.3, devices=devices, **changes) for devices in (1, 8))
    assert len(eight.d_embeds["image_embeds"].sharding.device_set) == 8
    assert abs(float(eight.loss) / float(one.loss) - 1) < 1e-6, (changes, eight.loss, one.loss)
    assert distance(gradients(eight), gradients(one)) < 1e-5, changes
print("same")
"""


def test_eight_devices_give_what_one_gives():
    """Without own pairs, in lists of rows and in one list of all pairs."""
    code, out, err = processes.run(EIGHT, devices=8, seconds=120)
    assert (code, out) == (0, "same\n"), err
