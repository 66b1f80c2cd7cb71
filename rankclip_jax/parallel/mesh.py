"""Device meshes, and the placement of arrays on them.

A mesh has two axes, ``replica`` and ``fsdp``. The batch is split over both axes. Parameters and optimizer state are
split over ``fsdp`` by one shape rule and replicated over ``replica``. The same code runs on one CPU, several fake
devices, several processes, and a pod.

Between steps each device holds 1/fsdp of the parameters and of the optimizer state. During a step, each device gathers
all parameters at once. Peak memory is therefore that of ZeRO-1: the optimizer state is split, but every device needs
memory for a whole copy of the parameters. (FSDP2 and ZeRO-3 gather one block of the model at a time.)
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError

BATCH = P(("replica", "fsdp"))
# Arrays with fewer elements are replicated: communication would cost more than the saved memory is worth.
SMALLEST_SHARDED = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """Return a mesh of shape (len(devices) / fsdp, fsdp) with axes ("replica", "fsdp").

    Args:
      devices: all devices by default.
      fsdp: number of parts of the parameters and the optimizer state, each on another device.

    Raises:
      UserError: `fsdp` does not divide the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f"config.mesh.fsdp={fsdp} does not divide the {len(devices)} devices found: "
            f"set it to a divisor of {len(devices)}."
        )
    shape = (len(devices) // fsdp, fsdp)
    # Auto: the compiler propagates shardings through the towers. (The default of `jax.make_mesh` is Explicit.)
    return jax.make_mesh(shape, ("replica", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


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
