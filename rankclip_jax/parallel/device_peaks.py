"""What devices can do at most, from their makers' documents: for MFU, for rooflines, and for the memory they have.

Rates are per device of JAX and per second. A device is a chip, except on TPU v2 and v3, which are not listed. FLOPs are
dense bfloat16 (float16 on V100 and T4) with float32 accumulation. GPU rates are those of the SXM form where there are
several forms.
"""

from typing import NamedTuple

GB, GiB = 10**9, 2**30


class Peaks(NamedTuple):
    """Peak rates of one device.

    Attributes:
      name: short name, such as "v5e".
      flops: floating-point operations per second.
      hbm_bytes: size of the memory.
      hbm_rate: bytes per second from or to the memory.
      link_rate: bytes per second in one direction over one link of the interconnect (ICI); GPUs: over NVLink, all links
        together; 0 if there is none.
      axes: number of dimensions of the TPU's torus; 1 for GPUs, which all reach each other through switches.
      ring: smallest size of a dimension that is closed to a ring, which doubles its rate.
      network_rate: bytes per second in one direction between slices or machines (DCN); 0 if it is not known.
      source: the document.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_rate: float
    link_rate: float
    axes: int
    ring: int
    network_rate: float
    source: str


TPU_DOCS = "https://docs.cloud.google.com/tpu/docs"
# The documents give ICI per chip for both directions of all ports: 4 ports on 2-D, 6 ports on 3-D tori.
V4 = Peaks("v4", 275e12, 32 * GiB, 1200e9, 50e9, 3, 4, 0.0, f"{TPU_DOCS}/v4")
V5E = Peaks("v5e", 197e12, 16 * GiB, 819e9, 50e9, 2, 16, 3.125e9, f"{TPU_DOCS}/v5e")
V5P = Peaks("v5p", 459e12, 95 * GiB, 2765e9, 100e9, 3, 4, 6.25e9, f"{TPU_DOCS}/v5p")
V6E = Peaks("v6e", 918e12, 32 * GiB, 1638e9, 100e9, 2, 16, 12.5e9, f"{TPU_DOCS}/v6e")
NVIDIA = "https://www.nvidia.com/en-us/data-center"
H100 = Peaks("h100", 989e12, 80 * GB, 3350e9, 450e9, 1, 1, 0.0, f"{NVIDIA}/h100")
H200 = Peaks("h200", 989e12, 141 * GB, 4800e9, 450e9, 1, 1, 0.0, f"{NVIDIA}/h200")
B200 = Peaks("b200", 2250e12, 180 * GB, 8000e9, 900e9, 1, 1, 0.0, f"{NVIDIA}/dgx-b200")
A100 = Peaks("a100", 312e12, 80 * GB, 2039e9, 300e9, 1, 1, 0.0, f"{NVIDIA}/a100")
A100_40 = A100._replace(hbm_bytes=40 * GB, hbm_rate=1555e9)
V100 = Peaks("v100", 125e12, 32 * GB, 900e9, 150e9, 1, 1, 0.0, f"{NVIDIA}/v100")
V100_16 = V100._replace(hbm_bytes=16 * GB)
L4 = Peaks("l4", 121e12, 24 * GB, 300e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/l4")
L40S = Peaks("l40s", 362e12, 48 * GB, 864e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/l40s")
T4 = Peaks("t4", 65e12, 16 * GB, 320e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/tesla-t4")

# Parts of `jax.Device.device_kind`, the first match counts: longer names precede their prefixes.
KINDS = {
    "TPU v6 lite": V6E,
    "TPU v6e": V6E,
    "TPU v5 lite": V5E,
    "TPU v5e": V5E,
    "TPU v5p": V5P,
    "TPU v5": V5P,
    "TPU v4 lite": None,  # an inference chip
    "TPU v4": V4,
    "B200": B200,
    "H200": H200,
    "H100 PCIe": None,
    "H100": H100,
    "A100-SXM4-40GB": A100_40,
    "A100-PCIE-40GB": A100_40,
    "A100": A100,
    "V100-SXM2-16GB": V100_16,
    "V100": V100,
    "L40S": L40S,
    "L40": None,
    "NVIDIA L4": L4,
    "Tesla T4": T4,
    "NVIDIA T4": T4,
}


def peaks_of(device_kind: str) -> Peaks | None:
    """The peaks of a `jax.Device.device_kind`; None if they are not known, as for CPUs."""
    return next((peaks for part, peaks in KINDS.items() if part.lower() in device_kind.lower()), None)
