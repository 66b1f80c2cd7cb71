"""A short training with fixed batches on the devices of this process or of several: its losses and last gradient.

python -c "from tests.support import layouts; layouts.main(OUT, 'exact:4')" trains the objective `exact` with fsdp = 4.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.parallel import mesh as sharding
from rankclip_jax.parallel import peers
from rankclip_jax.parallel import processes as distributed
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import create_state, jit_train_step, make_gradients, make_init, make_train_step
from tests.support.gradients import B, make_batch, parts

STEPS = 20


def compute(case: str) -> dict[str, np.ndarray]:
    """The losses of `STEPS` steps, and the gradient after them as one vector."""
    name, fsdp = case.split(":")
    towers, objective, optimizer = parts(name)
    mesh = sharding.make_mesh(fsdp=int(fsdp))
    state = create_state(make_init(towers, objective, optimizer), jax.random.key(0), mesh)
    step = jit_train_step(make_train_step(towers, objective, optimizer, mesh), state, mesh)
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, batch_of(towers, number, mesh))
        losses.append(float(metrics["loss"]))
    gradients = make_gradients(towers, objective, mesh, StepOptions())
    weights = {term: jnp.float32(2.0) for term in objective.terms} | {"clip": jnp.float32(1.0)}
    last = jax.jit(gradients, out_shardings=NamedSharding(mesh, P()))
    _, grads, _ = last(state["params"], batch_of(towers, STEPS, mesh), weights)
    gradient = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(grads)])
    return {"losses": np.array(losses), "gradient": gradient}


def batch_of(towers, number: int, mesh):
    """The global batch of a step: the same rows in another order, and other pixels."""
    batch = make_batch(towers.image.image_size, towers.text.context_length)
    rng = np.random.default_rng(number)
    order = rng.permutation(B)
    batch = {key: value[order] for key, value in batch.items()}
    batch["images"] = batch["images"] ^ rng.integers(0, 64, batch["images"].shape, np.uint8)
    local, index = B // jax.process_count(), jax.process_index()
    return sharding.put_batch({key: value[index * local : (index + 1) * local] for key, value in batch.items()}, mesh)


def main(out: str, *cases: str) -> None:
    distributed.initialize()
    sharding.SMALLEST_SHARDED = 64  # so that fsdp splits even a model for tests
    found = {f"{case}/{name}": value for case in cases for name, value in compute(case).items()}
    if distributed.is_main():
        np.savez(out, **found)
    distributed.barrier("written")
    peers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
