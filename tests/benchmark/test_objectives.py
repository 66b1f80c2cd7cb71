"""`python -m rankclip_jax.benchmark objectives`: cases, rows, invalid flags."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rankclip_jax.benchmark import objectives, runner
from rankclip_jax.benchmark.timed_run import timed_run
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
        assert row["peak_bytes"] >= 0 and runner.cell(row["seconds"], 1000) in out
    assert [row["ratio"] for row in rows] == [1.0, rows[1]["ratio"], rows[2]["ratio"], None, None, None]
    for row in rows[3:]:  # compiled, not run
        assert row["seconds"] is None and row["peak_bytes"] > 0 and row["peak_of"] == "compiled"
    assert out.count(" 32 ") == 3 and out.startswith("loss and gradients: dim 8, devices 1; medians of 2 rounds")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "rankclip_released"])
@pytest.mark.parametrize("run", [True, False])
def test_every_objective_gets_its_inputs(name, run):
    case = {"objective": name, "arithmetic": "", "framework": "jax", "batch": 8, "dim": 4, "devices": 1, "run": run}
    case["block_rows"] = 4
    built = objectives.jax_case(case)
    assert timed_run(built.run)["seconds"] > 0
    assert run or built.columns["peak_bytes"] > 0


def test_a_sweep_of_the_rows_of_a_block():
    values = {"batch": ["16"], "block_rows": ["0", "64"], "objectives": ["clip"], "arithmetics": ["exact"]}
    values |= {"frameworks": ["jax", "torch"], "dim": 8, "devices": 1, "run_up_to": 16}

    class Chosen(SimpleNamespace):
        def __getitem__(self, name):
            return SimpleNamespace(value=values[name])

    ((first, second, torch),) = objectives.groups(Chosen(**values))
    assert (first["block_rows"], second["block_rows"], torch["block_rows"]) == (0, 64, 0)


def test_arrays():
    made = objectives.embeddings(("image_embeds", "text_embeds", "image_logits"), 64, 32)
    norms = {name: np.linalg.norm(x, axis=1) for name, x in made.items()}
    np.testing.assert_allclose(norms["image_embeds"], 1, atol=1e-6)
    assert norms["image_logits"].min() > 2
    matching = np.mean(np.sum(made["image_embeds"] * made["text_embeds"], axis=1))
    assert 0.4 < matching < 0.6  # pairs agree, and not wholly


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch=16,x", "--batch=16,x: expected whole numbers from 1"),
        ("--block_rows=-1", "--block_rows=-1: expected whole numbers from 0"),
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
