"""Where the weights of an encoder lie, and how many rows it encodes together."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.models.transformer import unstacked
from rankclip_jax.parallel.mesh import block_if_cpu_collectives

BATCH_SIZE = {"cpu": 32}  # larger batches are not faster there, and the last one is padded
ACCELERATOR_BATCH_SIZE = 256


def default_batch_size(mesh: Mesh) -> int:
    """Return the number of rows at which the devices of the mesh reach their full speed."""
    return BATCH_SIZE.get(_platform(mesh), ACCELERATOR_BATCH_SIZE)


def bucket(count: int, smallest: int, largest: int) -> int:
    """Return the number of rows to which `count` rows are padded: `smallest` times a power of two, or `largest`.

    Each such number is compiled once. Powers of two keep both the programs and the padding few.
    """
    size = smallest
    while size < min(count, largest):
        size *= 2
    return min(size, largest)


def make_place(mesh: Mesh) -> Callable[[Weights], Weights]:
    """Return a function that puts weights on the devices of the mesh, for any number of batches.

    Numpy arrays are copied to every device. Arrays of a training state stay where they are. On CPUs, the blocks of
    transformers are separated (`unstacked`), and every device has whole arrays.
    """
    everywhere = NamedSharding(mesh, P())
    on_cpu = _platform(mesh) == "cpu"
    separate = jax.jit(unstacked, out_shardings=everywhere)

    def place(weights: Weights) -> Weights:
        towers, model_state = weights.params["towers"], weights.model_state
        if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((towers, model_state))):
            towers = unstacked(towers) if on_cpu else towers
            towers, model_state = jax.device_put((towers, model_state), everywhere)
        elif on_cpu:
            towers = block_if_cpu_collectives(separate(towers))
        return Weights({**weights.params, "towers": towers}, model_state)

    return place


def _platform(mesh: Mesh) -> str:
    return mesh.devices.flat[0].platform
