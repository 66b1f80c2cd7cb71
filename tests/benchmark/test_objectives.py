"""`python -m rankclip_jax.benchmark objectives`: cases, turns, what a row says, what is refused."""

import json

import numpy as np
import pytest

from rankclip_jax.benchmark import objectives, objectives_worker
from rankclip_jax.objectives import OBJECTIVES
from tests.benchmark.test_step import PROGRAM
from tests.objectives.test_vectors import VECTORS
from tests.support import processes

SMALL = ("objectives", "--dim=8", "--objectives=clip,rankclip")


def test_rows_of_a_real_run(tmp_path):
    file = tmp_path / "rows.json"
    given = ("--batch=16,32", "--run_up_to=16", "--rounds=2", f"--json={file}")
    code, out, err = processes.run(PROGRAM, *SMALL, *given, seconds=180)
    assert code == 0, err
    rows = json.loads(file.read_text())
    names = [("clip", ""), ("rankclip", "exact"), ("rankclip", "released")]
    assert [(row["objective"], row["arithmetic"]) for row in rows] == names * 2
    assert [row["batch"] for row in rows] == [16] * 3 + [32] * 3
    for row in rows[:3]:
        assert row["framework"] == "jax" and row["dim"] == 8 and row["peak_of"] == "resident"
        assert len(row["seconds_all"]) == 2 and min(row["seconds_all"]) <= row["seconds"] <= max(row["seconds_all"])
        assert f"{1000 * row['seconds']:.1f}" in out
    for row in rows[3:]:  # compiled, not run
        assert row["seconds"] is None and row["peak_bytes"] > 0 and row["peak_of"] == "compiled"
    assert out.count("not run") == 3


@pytest.fixture
def turns(monkeypatch):
    """Workers that compute nothing; the questions asked of them, in order."""
    asked = []

    class Scripted:
        def __init__(self, module, case):
            self.case, self.seconds = case, iter(case["script"])

        def ask(self, question):
            asked.append((self.case["objective"], question))
            return {"seconds": next(self.seconds), "bytes": 7}

        def close(self):
            asked.append((self.case["objective"], "close"))

    monkeypatch.setattr(objectives, "Worker", Scripted)
    return asked


CASES = [{"objective": "a", "batch": 4, "script": [9.0, 1.0, 3.0, 2.0]}, {"objective": "b", "script": [8.0] * 4}]


def test_cases_take_turns(turns):
    rows = objectives.measure(CASES, rounds=3)
    assert turns == [(name, "peak") for name in "ab"] + [("a", "time"), ("b", "time")] * 3 + [
        ("a", "close"),
        ("b", "close"),
    ]
    assert [row["seconds"] for row in rows] == [2.0, 8.0]  # medians, without the first run
    assert [row["peak_bytes"] for row in rows] == [7, 7]


def test_without_rounds_the_run_that_measures_memory_is_the_timed_one(turns):
    assert [row["seconds"] for row in objectives.measure(CASES, rounds=0)] == [9.0, 8.0]


def test_ratios_are_to_clip_of_the_same_framework_and_batch():
    shared = {"arithmetic": "", "batch": 4, "dim": 8, "peak_bytes": 2**20}
    rows = [
        {"objective": name, "framework": framework, "seconds": seconds, **shared}
        for name, framework, seconds in (("clip", "jax", 1.0), ("siglip", "jax", 0.5), ("clip", "torch", 2.0))
    ]
    table = [line.split() for line in objectives.describe(rows).splitlines()[2:]]
    assert [line[4] for line in table] == ["1.00", "0.50", "1.00"]


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "rankclip_released"])
def test_every_objective_gets_the_arrays_it_needs(name):
    case = {"objective": name, "arithmetic": "", "framework": "jax", "batch": 8, "dim": 4, "devices": 1}
    answers = objectives_worker.jax_case(case)
    assert answers["time"]()["seconds"] > 0
    assert answers["analyse"]()["bytes"] > 0


def test_arrays():
    made = objectives_worker.embeddings(("image_embeds", "text_embeds", "image_logits"), 64, 32)
    norms = {name: np.linalg.norm(x, axis=1) for name, x in made.items()}
    np.testing.assert_allclose(norms["image_embeds"], 1, atol=1e-6)
    assert norms["image_logits"].min() > 2
    matching = np.mean(np.sum(made["image_embeds"] * made["text_embeds"], axis=1))
    assert 0.4 < matching < 0.6  # pairs agree, and not wholly


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch=16,x", "--batch=16,x: expected positive whole numbers"),
        ("--frameworks=jx", "unknown framework 'jx'. Did you mean 'jax'?"),
        ("--arithmetics=exakt", "unknown arithmetic 'exakt'. Did you mean 'exact'?"),
        ("--objectives=clp", "unknown objective 'clp'. Did you mean 'clip'?"),
        ("--json=/nowhere/rows.json", "--json=/nowhere/rows.json: no writable folder '/nowhere'"),
    ],
)
def test_mistakes_are_one_line(flag, message):
    code, _, err = processes.run(PROGRAM, "objectives", flag)
    assert code == 2
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_the_released_arithmetic_in_torch_is_that_of_the_vectors():
    pytest.importorskip("torch")
    from rankclip_jax.benchmark.torch_reference import runner

    content = json.loads((VECTORS / "objectives_b24_d8.json").read_text())
    values = {(case["term"], case["log_scale"]): case["loss"] for case in content["cases"]}
    pair = [np.asarray(content[name], np.float32) for name in ("image", "text")]
    for logit_scale in {scale for _, scale in values}:
        terms = [values[term, logit_scale] for term in ("clip", "rank_cross_released", "rank_in_modal_released")]
        assert runner(*pair, logit_scale, "clip")() == pytest.approx(terms[0], rel=1e-5)
        assert runner(*pair, logit_scale, "rankclip")() == pytest.approx(sum(terms), rel=1e-5)
