"""docs/objectives.md: its example runs as printed, and its tables name every objective, option and schedule."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.objectives import OBJECTIVES, Recipe, RunInfo, build_objective, objective_config, rank
from rankclip_jax.objectives.rows import loss_and_gradients
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.schedules import WEIGHT_SCHEDULES
from tests.support.objective_checks import unit
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "objectives.md").read_text()


def example():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    module = {}
    exec(code, module)
    return module


def brute_force(image, text, margin):
    cosines = image.astype(np.float64) @ text.T.astype(np.float64)
    total = 0.0
    for i in range(len(image)):
        for j in range(len(image)):
            if i != j:
                total += max(0, margin - cosines[i, i] + cosines[i, j]) + max(0, margin - cosines[i, i] + cosines[j, i])
    assert total > 0
    return total / len(image)


def test_the_worked_example_computes_what_it_says(monkeypatch):
    module = example()
    monkeypatch.setitem(OBJECTIVES, "hinge", Recipe(module["build"], module["DEFAULTS"]))
    objective = build_objective(objective_config("hinge"), RunInfo(10, 5))
    rng = np.random.default_rng(0)
    image, text = (unit(x) for x in rng.standard_normal((2, 12, 4)))
    embeds = {"image_embeds": jnp.float32(image), "text_embeds": jnp.float32(text)}
    for block_rows in (0, 3):
        compute = jax.jit(loss_and_gradients(objective, make_mesh(jax.devices()[:1]), block_rows))
        scalars = {"logit_scale": jnp.float32(1)}
        result = compute(embeds, scalars, objective.weights(jnp.int32(0)))
        np.testing.assert_allclose(result.loss, brute_force(image, text, 0.2), rtol=1e-6)
        assert np.abs(result.d_embeds["image_embeds"]).max() > 0


def test_the_tables_name_everything():
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in TEXT.splitlines() if line[:3] == "| `")))
    assert set(OBJECTIVES) | set(rank.DEFAULTS) | set(WEIGHT_SCHEDULES) <= named


def test_the_printed_sum_of_terms_can_be_built():
    config = objective_config("clip")
    config.extra = re.search(r'objective.extra="(.*?)"', TEXT)[1]
    assert len(build_objective(config, RunInfo(10, 5)).terms) == 4
