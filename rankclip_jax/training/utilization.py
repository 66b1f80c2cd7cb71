"""How much of its devices a run uses: the model FLOPs utilisation (MFU) and the peak of the memory."""

import resource
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from rankclip_jax.models.flops import train_flops
from rankclip_jax.parallel.device_peaks import peaks_of
from rankclip_jax.training.optimizer import locked_parts
from rankclip_jax.training.setup import Setup


class Utilization(NamedTuple):
    """What turns the rate of a run into its MFU.

    Attributes:
      kind: `jax.Device.device_kind`.
      devices: this process's devices of the mesh.
      peak_flops: bfloat16 operations per second of all devices of the run together; 0 if they are not known.
      pair_flops: operations of one pair in a training step; 0 if `peak_flops` is 0.
    """

    kind: str
    devices: tuple[jax.Device, ...]
    peak_flops: float
    pair_flops: float

    def measure(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Metrics for a log line whose rates are those of `Clock.report`.

        Returns:
          "mfu", 0 to 1, if the peak is known: the operations that the towers need per second, whatever
          rematerialisation and GradCache repeat, divided by the peak. And the highest use of memory since the start of
          this process: "peak_device_bytes" of the device that used most; or, where devices do not report it, as on
          CPUs, "peak_process_bytes".
        """
        mfu = {"mfu": rates["samples_per_second"] * self.pair_flops / self.peak_flops} if self.peak_flops else {}
        return mfu | peak_memory(self.devices)

    def describe(self) -> str:
        """One line for the start-up card."""
        if not self.peak_flops:
            return f"the peak of {self.kind!r} is not known: no MFU is logged"
        return f"{self.pair_flops / 1e9:,.1f} GFLOP per pair; the peak is {self.peak_flops / 1e12:,.0f} TFLOP/s"


def utilization(parts: Setup) -> Utilization:
    """The `Utilization` of a run. The operations are counted only if the peak of the devices is known."""
    peak = peak_flops(parts.mesh)
    locked = locked_parts(parts.step_options.frozen_towers or {})
    flops = train_flops(parts.config.model, parts.objective.inputs, locked) if peak else 0.0
    mine = tuple(device for device in parts.mesh.devices.flat if device.process_index == jax.process_index())
    return Utilization(parts.mesh.devices.flat[0].device_kind, mine, peak, flops)


def peak_flops(mesh: Mesh) -> float:
    """bfloat16 operations per second of all devices together; 0 if one of them is not known."""
    peaks = [peaks_of(device.device_kind) for device in mesh.devices.flat]
    return sum(one.flops for one in peaks) if all(peaks) else 0.0


def peak_memory(devices: tuple[jax.Device, ...]) -> dict[str, int]:
    """Peak bytes of the device that used most; of this process if the devices do not report them."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    if found and None not in found:
        return {"peak_device_bytes": max(found)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_process_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
