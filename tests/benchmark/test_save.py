"""`python -m rankclip_jax.benchmark save`: what its cases do, on a tiny run."""

import json

import pytest

from rankclip_jax.benchmark import runner, save
from rankclip_jax.checkpoints import files
from rankclip_jax.run_folder import read_metrics
from tests.train.test_damaged_folders import make_config


@pytest.mark.parametrize("does", [save.STEPS, save.LOG, save.SAVE])
def test_a_case_trains_and_does_what_its_name_says(tmp_path, does):
    config = make_config()
    config.log.every, config.log.tensorboard = "2", True
    case = save.build({"does": does, "steps": 4, "folder": str(tmp_path), "config": config})
    case.run()
    case.run()
    steps = [line["step"] for line in read_metrics(tmp_path / does)]
    folder = files.absolute(str(tmp_path / does / "checkpoints"))
    # The last line is written with the next step, and before a checkpoint.
    assert steps == {save.STEPS: [], save.LOG: [2, 4, 6], save.SAVE: [2, 4, 6, 8]}[does]
    assert files.steps(folder) == ([8, 4] if does == save.SAVE else [])
    assert (tmp_path / does / "tensorboard").exists() == (does != save.STEPS)
    assert (0 < case.columns["blocked"] < 100) and json.dumps(case.columns)
    row = dict.fromkeys(("seconds", "seconds_min", "seconds_max", "ratio", "ratio_min", "ratio_max"), 1.5)
    row |= case.columns | {"rounds": 1, "base": "steps", "blocked, %": 2.0, "added, %": 50.0}
    assert "blocked, %" in runner.describe(save.BENCHMARK, [row])
