"""Checks of the devices: which ones, how fast they multiply, and how fast they exchange data."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rankclip_jax.doctor.checks import FAILED, NOTE, OK, Finding
from rankclip_jax.parallel import accelerators
from rankclip_jax.parallel.device_peaks import peaks_of

SECONDS = 0.5  # of measurement
SLOW = 0.4  # share of the peak below which a large matrix product is worth a note


def found(expect: str) -> Finding:
    """The devices of JAX. Another platform than `expect`, or the CPU where an accelerator should be, is a failure."""
    platform, count = jax.default_backend(), jax.device_count()
    kind = jax.devices()[0].device_kind
    text = f"{count} x {kind} ({platform}), {jax.local_device_count()} of them in this process"
    values = {"platform": platform, "kind": kind, "count": count, "local": jax.local_device_count()}
    if expect and platform != expect:
        return Finding(FAILED, f"--expect={expect}, but JAX runs on {platform}: {text}", values)
    if not expect and (problem := accelerators.missing(platform, accelerators.signs())):
        return Finding(FAILED, problem, values)
    return Finding(OK, text, values)


def matmul() -> Finding:
    """Speed of a product of two square matrices on one device: bfloat16, on CPUs float32."""
    device = jax.local_devices()[0]
    size, dtype = (1024, jnp.float32) if device.platform == "cpu" else (8192, jnp.bfloat16)
    a = jax.device_put(jnp.ones((size, size), dtype), device)
    rate = 2 * size**3 / _seconds(jax.jit(jnp.matmul), a, a)
    peaks = peaks_of(device.device_kind)
    values = {"tflops": round(rate / 1e12, 3), "dtype": jnp.dtype(dtype).name, "size": size}
    text = f"{rate / 1e12:.3g} TFLOP/s in {jnp.dtype(dtype).name}, {size} x {size}"
    if peaks is None:
        return Finding(OK, f"{text}; the peak of this device is not known", values)
    share = rate / peaks.flops
    values["share_of_peak"] = round(share, 3)
    return Finding(OK if share > SLOW else NOTE, f"{text}: {share:.0%} of the peak of {peaks.name}", values)


def all_reduce() -> Finding:
    """Sum of one array per device over all devices: whether it is right, and the bandwidth of each device."""
    count = jax.device_count()
    if count == 1:
        return Finding(OK, "one device: nothing to exchange")
    floats = 2**20 if jax.default_backend() == "cpu" else 2**24
    mesh = jax.make_mesh((count,), ("all",), axis_types=(AxisType.Auto,))
    sharded, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("all",), ()))
    rows = jax.make_array_from_callback(
        (count, floats), sharded, lambda index: np.full((1, floats), index[0].start or 0, np.float32)
    )
    add = jax.jit(lambda x: x.sum(axis=0), out_shardings=replicated)
    total = float(add(rows).addressable_data(0)[0])
    if total != count * (count - 1) / 2:
        return Finding(FAILED, f"the sum over {count} devices is {total}, not {count * (count - 1) / 2}")
    seconds = _seconds(add, rows, calls=10)
    # Of a ring: each device sends and receives 2 (n - 1) / n of the array.
    rate = 2 * (count - 1) / count * 4 * floats / seconds
    values = {"devices": count, "seconds": seconds, "bytes": 4 * floats, "gb_per_second": round(rate / 1e9, 3)}
    text = f"{4 * floats / 2**20:.0f} MiB over {count} devices in {1e3 * seconds:.3g} ms"
    return Finding(OK, f"{text}: {rate / 1e9:.3g} GB/s for each", values)


def _seconds(function: Callable, *arguments: jax.Array, calls: int = 0) -> float:
    """Seconds of one call. All processes must make the same number of `calls`; 0 if there is only this one."""
    jax.block_until_ready(function(*arguments))  # compiles
    begin, done = time.perf_counter(), 0
    while done < calls or (not calls and time.perf_counter() - begin < SECONDS):
        jax.block_until_ready(function(*arguments))
        done += 1
    return (time.perf_counter() - begin) / done
