"""Device meshes, and the placement of arrays on them.

A mesh has two axes, ``replica`` and ``fsdp``. The batch is split over both axes. Parameters and optimizer state are
split over ``fsdp`` by one shape rule and replicated over ``replica``. The same code runs on one CPU, several fake
devices, several processes, and a pod.

Between steps each device holds 1/fsdp of the parameters and of the optimizer state. During a step, each device gathers
all parameters at once. Peak memory is therefore that of ZeRO-1: the optimizer state is split, but every device needs
memory for a whole copy of the parameters. (FSDP2 and ZeRO-3 gather one block of the model at a time.)
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError

AXES = ("replica", "fsdp")
BATCH = P(AXES)
REST = -1  # size of an axis that takes the rest of the devices
# Arrays with fewer elements are replicated: communication would cost more than the saved memory is worth.
SMALLEST_SHARDED = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1, replica: int = REST) -> Mesh:
    """Return a mesh of shape (replica, fsdp) over all `devices`.

    JAX chooses the order of the devices, so that neighbours on an axis are neighbours in the machine. On several TPU
    slices, or other groups of devices with a `slice_index`, each fsdp group is inside one slice: gathering parameters
    then does not cross the slower network between slices.

    Args:
      devices: all devices by default.
      fsdp: number of parts of the parameters and the optimizer state, each on another device; -1 for the rest.
      replica: number of copies of them; -1 for the rest.

    Raises:
      UserError: the sizes do not fit the number of devices, or of devices in a slice.
    """
    devices = list(jax.devices() if devices is None else devices)
    replica, fsdp = _sizes(len(devices), replica, fsdp)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # Auto: the compiler propagates shardings through the towers. (The default of `jax.make_mesh` is Explicit.)
        return jax.make_mesh((replica, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    if replica % slices:
        raise UserError(
            f"config.mesh.fsdp={fsdp} does not divide the {len(devices) // slices} devices of each of the {slices} "
            "slices: a copy of the parameters must be inside one slice."
        )
    ordered = create_hybrid_device_mesh((replica // slices, fsdp), (slices, 1), devices)
    return Mesh(ordered, AXES, axis_types=(AxisType.Auto,) * 2)


def _sizes(count: int, replica: int, fsdp: int) -> tuple[int, int]:
    """The sizes of both axes, with the rest in place of -1."""
    sizes, key = {"replica": replica, "fsdp": fsdp}, f"config.mesh.replica={replica}, config.mesh.fsdp={fsdp}"
    if any(size != REST and size < 1 for size in sizes.values()) or list(sizes.values()) == [REST, REST]:
        raise UserError(f"{key}: sizes must be at least 1, and one of them may be -1 for the rest.")
    known = math.prod(size for size in sizes.values() if size != REST)
    if count % known or (REST not in sizes.values() and known != count):
        name = " x ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items() if size != REST)
        verb = "does not divide" if REST in sizes.values() else "is not"
        raise UserError(f"{name} {verb} the {count} devices found: set it to a divisor of {count}, or -1 for the rest.")
    return tuple(count // known if size == REST else size for size in sizes.values())


def state_shardings(abstract_state, mesh: Mesh):
    """Return a NamedSharding for each leaf: its largest axis that `fsdp` divides is split, otherwise it is replicated.

    `abstract_state` is a pytree of arrays or `jax.ShapeDtypeStruct`.
    """
    fsdp = mesh.shape["fsdp"]

    def rule(leaf):
        spec = [None] * leaf.ndim
        if fsdp > 1 and leaf.size >= SMALLEST_SHARDED:
            for axis in np.argsort(leaf.shape, kind="stable")[::-1]:
                if leaf.shape[axis] % fsdp == 0:
                    spec[axis] = "fsdp"
                    break
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(rule, abstract_state)


def replicated(params, mesh: Mesh):
    """Inside jit: return `params` with a whole copy on every device; batch rows stay on their devices.

    Without this constraint the compiler splits the channels of the towers instead, and every device computes
    activations of the whole batch.
    """
    return jax.lax.with_sharding_constraint(params, NamedSharding(mesh, P()))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the rows of a batch over all devices."""
    return NamedSharding(mesh, BATCH)


def put_batch(batch, mesh: Mesh):
    """Return global arrays. Each process passes its own contiguous rows of the batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def block_if_cpu_collectives(result):
    """Return `result`; on several CPU devices, wait until it is computed, to prevent a deadlock.

    The CPU devices of one process share a thread pool. Two independent programs in flight may each hold some threads
    and wait in a collective for the other threads forever. Accelerators run programs in order and do not wait here.
    """
    devices = next(iter(jax.tree.leaves(result))).sharding.device_set
    if len(devices) > 1 and next(iter(devices)).platform == "cpu":
        jax.block_until_ready(result)
    return result
