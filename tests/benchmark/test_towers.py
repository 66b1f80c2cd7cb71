"""`python -m rankclip_jax.benchmark towers`: a case, its run, and the columns derived from its time."""

import math

import pytest

from rankclip_jax.benchmark import towers
from rankclip_jax.benchmark.timed_run import timed_run
from rankclip_jax.models.flops import train_flops
from rankclip_jax.models.presets import get_preset


def test_a_training_step_and_its_row():
    case = {"model": "mu", "framework": "jax", "compiled": True, "batch": 4, "dtype": "float32", "peak_tflops": 2.0}
    built = towers.build(case)
    assert built.columns | case == built.columns
    assert built.columns["parameters"] > 0 and built.columns["compile_seconds"] > 0
    assert timed_run(built.run)["seconds"] > 0 and timed_run(built.run)["seconds"] > 0
    row = {key: function(built.columns | {"seconds": 0.5, "ratio": 0.8}) for key, function in derived().items()}
    tflops = 4 * train_flops(get_preset("mu")) / 0.5 / 1e12
    assert row["images_per_second"] == 8 and row["speed_over_torch"] == 1.25
    assert row["tflops_per_second"] == (pytest.approx(tflops) if tflops else None)
    assert row["mfu"] == (pytest.approx(tflops / 2) if tflops else None)


def derived():
    return towers.BENCHMARK.derived


def test_operations_of_a_vit():
    """ViT-B/32 at 224 pixels: 14.8 GFLOP forward, image and text of 77 tokens, as in open_clip's table."""
    gigaflops = train_flops(get_preset("ViT-B/32")) / 3 / 1e9
    assert math.isclose(gigaflops, 14.8, rel_tol=0.03)
