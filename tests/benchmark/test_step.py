"""`python -m rankclip_jax.benchmark step`, and the command line of all benchmarks."""

import json

import pytest

from rankclip_jax.benchmark import runner
from tests.support import processes

PROGRAM = """
import runpy, sys
sys.argv = ["benchmark", *sys.argv[1:]]
runpy.run_module("rankclip_jax.benchmark", run_name="__main__")
"""
MU = ("step", "--config=configs/emoji.py:mu", "--config.model.image.layers=1", "--config.model.text.layers=1")


def test_no_objectives():
    code, _, err = processes.run(PROGRAM, *MU, "--objectives=")
    assert (code, err) == (2, "error: --objectives is empty: name at least one, such as --objectives=clip,rankclip.\n")


def test_a_real_run(tmp_path):
    file = tmp_path / "rows.json"
    given = ("--rounds=2", "--objectives=clip,rankclip", f"--json={file}", "--config.objective.arithmetic=released")
    code, out, err = processes.run(PROGRAM, *MU, *given, seconds=180)
    assert code == 0, err
    rows = json.loads(file.read_text())
    assert [(row["objective"], row["arithmetic"]) for row in rows] == [("clip", ""), ("rankclip", "released")]
    for row in rows:
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row | {"benchmark": "step", "framework": "jax", "batch": 32, "dim": 16, "rounds": 2} == row
        assert runner.cell(row["seconds"], 1000) in out
    assert out.startswith("training step: model mu, batch 32, devices 1, platform cpu; medians of 2 rounds")
    assert "time / clip" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a benchmark: python -m rankclip_jax.benchmark NAME. Known: billions, data, "),
        (("stpe", "--config=configs/emoji.py"), "unknown benchmark 'stpe'. Did you mean 'step'? Known:"),
        (("step",), "--config is required; see --help"),
        ((*MU, "--objectives=clip,rankclp"), "unknown objective 'rankclp'. Did you mean 'rankclip'?"),
        ((*MU, "--json=/nowhere/rows.json"), "--json=/nowhere/rows.json: no writable folder '/nowhere'"),
        ((*MU, "clip"), "unexpected argument 'clip'"),
        (
            ("towers", "--models=ViT-B/32,RN50", "--frameworks=jax,torch"),
            "--models: RN50 is not a model of transformers' CLIPModel: leave torch out of --frameworks.",
        ),
        ((*MU, "--config.batchsize=3"), "--config.batchsize: unknown config key 'batchsize'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    code, _, err = processes.run(PROGRAM, *arguments)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_help_lists_the_flags_of_the_benchmark():
    code, out, _ = processes.run(PROGRAM, "step", "--help")
    assert code == 0
    assert all(flag in out for flag in ("--objectives", "--rounds", "--json", "--config"))
