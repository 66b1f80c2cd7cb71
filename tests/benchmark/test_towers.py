"""`python -m rankclip_jax.benchmark towers`: a case, its run, and the columns derived from its time."""

import pytest

from rankclip_jax.benchmark import towers
from rankclip_jax.benchmark.timed_run import timed_run
from rankclip_jax.models.flops import train_flops
from rankclip_jax.models.presets import get_preset


def test_a_training_step_and_its_row():
    case = {"model": "mu", "framework": "jax", "compiled": True, "batch": 4, "dtype": "float32", "peak_tflops": 2.0}
    case["attention"] = "auto"
    built = towers.build(case)
    assert built.columns | case == built.columns
    assert built.columns["parameters"] > 0 and built.columns["compile_seconds"] > 0
    assert timed_run(built.run)["seconds"] > 0 and timed_run(built.run)["seconds"] > 0
    row = {key: function(built.columns | {"seconds": 0.5, "ratio": 0.8}) for key, function in derived().items()}
    tflops = 4 * train_flops(get_preset("mu")) / 0.5 / 1e12
    assert row["images_per_second"] == 8 and row["speed_over_torch"] == 1.25
    assert row["tflops_per_second"] == (pytest.approx(tflops))
    assert row["mfu"] == (pytest.approx(tflops / 2))


def derived():
    return towers.BENCHMARK.derived
