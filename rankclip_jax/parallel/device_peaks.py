"""What devices can do at most, from their makers' documents: for MFU, for rooflines, and for the memory they have.

Rates are per device of JAX and per second. A device is a chip, except on TPU v2 and v3, which are not listed, and on
TPU7x: JAX has a device for each of its two halves. FLOPs are
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
TPU7X = Peaks("tpu7x", 2307e12 / 2, 96 * GiB, 7380e9 / 2, 50e9, 3, 4, 0.0, f"{TPU_DOCS}/tpu7x")
NVIDIA = "https://www.nvidia.com/en-us/data-center"
H100 = Peaks("h100", 989e12, 80 * GB, 3350e9, 450e9, 1, 1, 0.0, f"{NVIDIA}/h100")
H200 = Peaks("h200", 989e12, 141 * GB, 4800e9, 450e9, 1, 1, 0.0, f"{NVIDIA}/h200")
# The NVL forms have less power. A GH200 has an H100 with more memory, a GB200 a B200 with more power.
H100_NVL = Peaks("h100-nvl", 835e12, 94 * GB, 3900e9, 300e9, 1, 1, 0.0, f"{NVIDIA}/h100")
H200_NVL = H200._replace(name="h200-nvl", flops=835e12, source=f"{NVIDIA}/h200")
GH200 = Peaks("gh200", 989e12, 96 * GB, 4000e9, 450e9, 1, 1, 0.0, f"{NVIDIA}/grace-hopper-superchip")
GB200 = Peaks("gb200", 2500e12, 186 * GB, 8000e9, 900e9, 1, 1, 0.0, f"{NVIDIA}/gb200-nvl72")
B200 = Peaks("b200", 2250e12, 180 * GB, 8000e9, 900e9, 1, 1, 0.0, f"{NVIDIA}/dgx-b200")
A100 = Peaks("a100", 312e12, 80 * GB, 2039e9, 300e9, 1, 1, 0.0, f"{NVIDIA}/a100")
A100_40 = A100._replace(hbm_bytes=40 * GB, hbm_rate=1555e9)
V100 = Peaks("v100", 125e12, 32 * GB, 900e9, 150e9, 1, 1, 0.0, f"{NVIDIA}/v100")
V100_16 = V100._replace(hbm_bytes=16 * GB)
L4 = Peaks("l4", 121e12, 24 * GB, 300e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/l4")
L40S = Peaks("l40s", 362e12, 48 * GB, 864e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/l40s")
T4 = Peaks("t4", 65e12, 16 * GB, 320e9, 0.0, 1, 1, 0.0, f"{NVIDIA}/tesla-t4")
# With float32 accumulation, GeForce cards have half the rate of the float16 accumulation that their pages advertise.
ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
RTX_4090 = Peaks("rtx4090", 165.2e12, 24 * GB, 1008e9, 0.0, 1, 1, 0.0, ADA)
RTX_3090 = Peaks("rtx3090", 71e12, 24 * GB, 936e9, 0.0, 1, 1, 0.0, AMPERE)

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
    "TPU7x": TPU7X,
    "GB200": GB200,
    "B200": B200,
    "GH200 480GB": GH200,
    "GH200": None,
    "H200 NVL": H200_NVL,
    "H200": H200,
    "H100 PCIe": None,
    "H100 NVL": H100_NVL,
    "H100": H100,
    "A100-SXM4-40GB": A100_40,
    "A100-PCIE-40GB": A100_40,
    "A100": A100,
    "V100-SXM2-16GB": V100_16,
    "V100": V100,
    "L40S": L40S,
    "L40": None,
    "NVIDIA L4": L4,
    "RTX 4090 Laptop": None,
    "RTX 4090 D": None,
    "RTX 4090": RTX_4090,
    "RTX 3090 Ti": None,
    "RTX 3090": RTX_3090,
    "Tesla T4": T4,
    "NVIDIA T4": T4,
}


def peaks_of(device_kind: str) -> Peaks | None:
    """The peaks of a `jax.Device.device_kind`; None if they are not known, as for CPUs."""
    return next((peaks for part, peaks in KINDS.items() if part.lower() in device_kind.lower()), None)
