"""MFU and memory of a run, from devices that are made up."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rankclip_jax.models.flops import train_flops
from rankclip_jax.models.presets import get_preset
from rankclip_jax.parallel.device_peaks import H100
from rankclip_jax.training import utilization
from rankclip_jax.training.utilization import Utilization


def device(kind="NVIDIA H100 80GB HBM3", peak=None):
    memory = None if peak is None else {"peak_bytes_in_use": peak, "bytes_in_use": 1}
    return SimpleNamespace(device_kind=kind, process_index=0, memory_stats=lambda: memory)


def parts(devices, freeze=None):
    mesh = SimpleNamespace(devices=np.array(devices, object).reshape(-1, 1))
    return SimpleNamespace(
        mesh=mesh,
        config=SimpleNamespace(model=get_preset("ViT-B/32")),
        objective=SimpleNamespace(inputs=("image_embeds", "text_embeds")),
        step_options=SimpleNamespace(frozen_towers=freeze),
    )


def test_the_goal_of_45_percent_on_an_h100():
    """2 H100 at 45 %: 0.45 x 989e12 / (3 x 14.78e9) = 10,040 images/s each."""
    used = utilization.utilization(parts([device(peak=5), device(peak=7)]))
    assert used.peak_flops == 2 * H100.flops
    found = used.measure({"samples_per_second": 2 * 10_040.0})
    assert found == {"mfu": pytest.approx(0.45, rel=1e-3), "peak_device_bytes": 7}
    assert used.describe() == "44.3 GFLOP per pair; the peak is 1,978 TFLOP/s"


def test_a_frozen_tower_has_no_backward_pass():
    everything = utilization.utilization(parts([device()])).pair_flops
    locked = utilization.utilization(parts([device()], {"image": {"a": True}, "text": {"b": False}})).pair_flops
    assert locked == everything - 2 * train_flops(get_preset("ViT-B/32"), ("image_embeds",)) / 3


def test_an_unknown_device_has_no_mfu_and_says_so():
    used = utilization.utilization(parts([device("cpu"), device()]))
    assert used.describe() == "the peak of 'cpu' is not known: no MFU is logged"
    assert set(used.measure({"samples_per_second": 3.0})) == {"peak_process_bytes"}


def test_the_memory_of_this_process():
    block = np.ones(40 * 2**20, np.uint8)
    found = Utilization("cpu", tuple(jax.local_devices()), 0.0, 0.0).measure({"samples_per_second": 1.0})
    assert block.nbytes < found["peak_process_bytes"] < 2**40
