"""Signs that this machine has an accelerator, to notice when JAX has only found the CPU.

JAX falls back to the CPU with a warning if a driver or a wheel is missing or does not fit. A run would then be
hundreds of times slower, and nobody would notice before its first log line.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from rankclip_jax.errors import UserError

GPU, TPU = "gpu", "tpu"
CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
TPU_VARIABLES = ("TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "TPU_NAME")  # set on TPU machines
INSTALL = {GPU: "pip install -e '.[gpu]'", TPU: "pip install -e '.[tpu]'"}


def signs(env: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> dict[str, str]:
    """Return what shows that JAX should find accelerators, by kind ("gpu", "tpu"); empty if nothing does.

    Nothing does if the user hides the accelerators, by JAX_PLATFORMS=cpu or an empty CUDA_VISIBLE_DEVICES. The package
    libtpu alone is no sign: `rankclip_jax.plan` uses it on machines without TPUs.
    """
    if env.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return {}
    found = {}
    if (gpu := _gpu_sign(dev)) and env.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        found[GPU] = gpu
    if tpu := _tpu_sign(env, dev):
        found[TPU] = tpu
    return found


def _gpu_sign(dev: Path) -> str:
    if nodes := sorted(path for path in dev.glob("nvidia[0-9]*")):
        return f"{nodes[0]} exists"
    return next((f"{name} is installed" for name in CUDA_PLUGINS if importlib.util.find_spec(name)), "")


def _tpu_sign(env: Mapping[str, str], dev: Path) -> str:
    if nodes := sorted(dev.glob("accel[0-9]*")):
        return f"{nodes[0]} exists"
    return next((f"{name} is set" for name in TPU_VARIABLES if env.get(name)), "")


def missing(platform: str, found: Mapping[str, str]) -> str:
    """Return what is wrong if JAX runs on `platform` although `found` has signs of accelerators; "" if nothing is."""
    if platform != "cpu" or not found:
        return ""
    kind, sign = next(iter(found.items()))
    return (
        f"JAX found no {kind.upper()}, only the CPU, although {sign}: install the driver and {INSTALL[kind]}; "
        "python -m rankclip_jax.doctor shows what is there"
    )


def check(allow_cpu: bool) -> None:
    """Check that JAX does not run on the CPU of a machine with accelerators.

    Raises:
      UserError: it does, and `allow_cpu` is false.
    """
    if not allow_cpu and (found := signs()) and (problem := missing(jax.default_backend(), found)):
        raise UserError(f"{problem}. To train on the CPU: --config.allow_cpu=True")
