"""Meshes and where arrays live on them.

Two axes: ``replica`` and ``fsdp``. The batch is split over both; parameters over ``fsdp`` by one
shape rule. The same code runs on one CPU, several fake devices, several processes, a pod.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.errors import UserError

BATCH = P(("replica", "fsdp"))
# Splitting small arrays costs more in messages than it saves in memory.
SMALLEST_SHARDED = 2**16


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A ("replica", "fsdp") mesh over `devices` (all of them by default).

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
    # Auto: the compiler propagates shardings through the towers. (make_mesh's default is Explicit.)
    return jax.make_mesh(shape, ("replica", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def state_shardings(abstract_state, mesh: Mesh):
    """NamedSharding for each leaf: the largest axis that `fsdp` divides, else replicated."""
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
    """Inside jit: `params` whole on every device, for the computation that follows.

    This is what sharding over `fsdp` means: parameters are split while they rest and gathered for
    use, rows stay where they are. Left to itself the compiler splits the towers' channels instead, and
    gives every device the activations of the whole batch.
    """
    return jax.lax.with_sharding_constraint(params, NamedSharding(mesh, P()))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over every device."""
    return NamedSharding(mesh, BATCH)


def put_batch(batch, mesh: Mesh):
    """Global arrays from each process's contiguous rows of the batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def block_if_cpu_collectives(result):
    """`result`, waited for where its program could otherwise deadlock with the next one.

    Several CPU devices in one process share a pool of threads. Two programs in flight that do not
    depend on each other may each hold some of these and wait in a collective for the rest, for ever.
    Accelerators run their programs in order, and are not waited for.
    """
    devices = next(iter(jax.tree.leaves(result))).sharding.device_set
    if len(devices) > 1 and next(iter(devices)).platform == "cpu":
        jax.block_until_ready(result)
    return result
