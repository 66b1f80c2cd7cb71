"""The devices of a machine that is not here, by the name of its topology, such as ``v5e:4x4``."""

import contextlib
import math
import os
import re
from importlib.util import find_spec
from typing import NamedTuple

import jax

from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.parallel import device_peaks
from rankclip_jax.parallel.device_peaks import Peaks
from rankclip_jax.plan.groups import Group

TPUS = {"v5e": device_peaks.V5E, "v5p": device_peaks.V5P, "v6e": device_peaks.V6E}
KNOWN = "cpu:8, v5e:4x4 (up to 16x16), v5p:4x4x4 (and larger), v6e:4x4 (up to 16x16)"
NO_GPU = (
    "XLA compiles GPU programs only with NVIDIA's plugin on a machine with a GPU; without one it also chooses a slower "
    "sort. Run python -m rankclip_jax.benchmark step on the GPU instead"
)
# Without the first three, libtpu asks a metadata server what machine this is, and complains. The last allows several
# plans at a time: libtpu guards the TPU of this machine, which a plan does not use.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Machine(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: such as "v5e:4x4".
      devices: `jax.Device`, which cannot run programs unless they are CPUs.
      peaks: rates and memory of one device; None for CPUs.
      sizes: the dimensions of the torus.
    """

    name: str
    devices: tuple
    peaks: Peaks | None
    sizes: tuple[int, ...]

    def ici_rate(self, group: Group) -> float:
        """Bytes per second that a device can send to others of its `group`, over all links that lead to them.

        A dimension has one link to the next device, and two if it is closed to a ring.
        """
        places = [tuple(self.devices[index].coords) for index in group.members]
        rate = 0.0
        for size, along in zip(self.sizes, zip(*places, strict=True), strict=False):
            count = len(set(along))
            is_ring = count == size and size % self.peaks.ring == 0
            rate += 0.0 if count == 1 else self.peaks.link_rate * (2 if is_ring else 1)
        return rate or self.peaks.link_rate


def open_machine(name: str) -> Machine:
    """The machine of a topology's name.

    Raises:
      UserError: an unknown name, sizes that the machine does not have, or libtpu is not installed.
    """
    kind, _, text = name.partition(":")
    if kind in ("gpu", "cuda"):
        raise UserError(f"--topology={name}: {NO_GPU}. Known: {KNOWN}.")
    sizes = tuple(int(size) for size in text.split("x")) if re.fullmatch(r"\d+(x\d+)*", text) else ()
    if kind not in ("cpu", *TPUS) or not sizes or not all(sizes):
        raise UserError(f"--topology={name}: unknown. Known: {KNOWN}.")
    return _cpu(name, sizes) if kind == "cpu" else _tpu(name, sizes, TPUS[kind])


def _cpu(name: str, sizes: tuple[int, ...]) -> Machine:
    count = math.prod(sizes)
    with contextlib.suppress(RuntimeError):  # this process already has its devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology={name}: this process has {len(devices)} CPU devices; use another process.")
    return Machine(name, tuple(devices[:count]), None, sizes)


def _tpu(name: str, sizes: tuple[int, ...], peaks: Peaks) -> Machine:
    if len(sizes) != peaks.axes:
        example = "x".join(["4"] * peaks.axes)
        raise UserError(f"--topology={name}: {peaks.name} has {peaks.axes} dimensions, such as {peaks.name}:{example}.")
    if peaks.axes == 2 and max(sizes) > peaks.ring:
        raise UserError(f"--topology={name}: a {peaks.name} pod has at most {peaks.ring}x{peaks.ring} chips.")
    if find_spec("libtpu") is None:
        raise UserError(f"--topology={name} needs libtpu, the compiler for TPUs: {install_hint('tpu')}.")
    os.environ.update(TPU_ENVIRONMENT | {key: os.environ[key] for key in TPU_ENVIRONMENT if key in os.environ})
    from jax.experimental import topologies

    # A host has 2 x 2 chips; smaller slices are a part of one host.
    host = [min(2, size) for size in (*sizes, 1)[:3]]
    host[2:] = [1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, chips_per_host_bounds=host)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={name}: {str(error).splitlines()[0]}.") from error
    return Machine(name, tuple(found.devices), peaks, sizes)
