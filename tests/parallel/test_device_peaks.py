"""Peaks of devices by the names that JAX gives them."""

import pytest

from rankclip_jax.parallel.device_peaks import KINDS, peaks_of

NAMES = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA L4": "l4",
    "NVIDIA L40S": "l40s",
    "Tesla T4": "t4",
    "TPU7x": "tpu7x",
    "NVIDIA B200": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA GH200 480GB": "gh200",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA A100-SXM4-40GB": "a100",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "Tesla V100-SXM2-16GB": "v100",
}


@pytest.mark.parametrize("kind", NAMES)
def test_device_kinds_of_jax_are_known(kind):
    assert peaks_of(kind).name == NAMES[kind]


@pytest.mark.parametrize(
    "kind",
    ["cpu", "TPU v4 lite", "NVIDIA L40", "NVIDIA H100 PCIe", "TPU v99", "NVIDIA GeForce RTX 4090 Laptop GPU", ""],
)
def test_other_devices_have_no_peaks(kind):
    assert peaks_of(kind) is None


def test_the_ratio_of_compute_to_memory_is_plausible():
    # Accelerators need 60 to 700 operations per byte; a slip of a factor of a thousand is outside.
    for peaks in filter(None, KINDS.values()):
        assert 60 < peaks.flops / peaks.hbm_rate < 700, peaks
        assert 14e9 < peaks.hbm_bytes < 200e9, peaks
