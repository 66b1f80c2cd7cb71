"""`python -m rankclip_jax.benchmark`: what is timed, in which order, what is printed and written."""

import json

import pytest

from configs import emoji
from rankclip_jax.benchmark import step
from rankclip_jax.errors import UserError
from tests.support import processes

PROGRAM = """
import runpy, sys
sys.argv = ["benchmark", *sys.argv[1:]]
runpy.run_module("rankclip_jax.benchmark", run_name="__main__")
"""
MU = ("step", "--config=configs/emoji.py:mu", "--config.model.image.layers=1", "--config.model.text.layers=1")


@pytest.fixture
def scripted(monkeypatch):
    """Steps that compute nothing and take the seconds given, and a list of whose turn it was."""
    seconds = {"clip": [9.0, 9.0, 2.0, 4.0, 3.0], "rankclip": [9.0, 9.0, 3.0, 4.4, 3.0]}  # warm-up first
    turns = []

    def stepper(parts, batch):
        name, given = parts.objective.name, iter(seconds[parts.objective.name])

        def timed():
            turns.append(name)
            return next(given)

        return timed

    monkeypatch.setattr(step, "_stepper", stepper)
    monkeypatch.setattr(step, "_one_batch", lambda parts: None)
    return turns


def test_objectives_take_turns(scripted):
    timings = step.measure(emoji.get_config("mu"), ["clip", "rankclip"], rounds=3)
    assert scripted == ["clip"] * 2 + ["rankclip"] * 2 + ["clip", "rankclip"] * 3
    clip, rankclip = timings
    assert (clip.seconds, clip.seconds_min, clip.seconds_max, clip.ratio) == (3.0, 2.0, 4.0, 1.0)
    # The ratios within the rounds are 1.5, 1.1 and 1; that of the medians would be 1.
    assert rankclip.seconds == 3.0
    assert (rankclip.ratio, rankclip.ratio_min, rankclip.ratio_max) == pytest.approx((1.1, 1.0, 1.5))


def test_table(scripted):
    lines = step.describe(step.measure(emoji.get_config("mu"), ["clip", "rankclip"], rounds=3)).splitlines()
    assert lines[0].startswith("train step of mu, batch 32, 1 x cpu: medians of 3 rounds")
    assert lines[1].split() == ["objective", "ms", "a", "step", "min", "max", "x", "clip", "min", "max"]
    assert lines[3].split() == ["rankclip", "exact", "3000.0", "3000.0", "4400.0", "1.100", "1.000", "1.500"]


def test_no_objectives():
    with pytest.raises(UserError, match="--objectives is empty"):
        step.measure(emoji.get_config("mu"), [], rounds=1)


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
        assert f"{1000 * row['seconds']:.1f}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a benchmark: python -m rankclip_jax.benchmark NAME. Known: data, objectives, step, towers."),
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
