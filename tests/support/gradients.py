"""Loss and whole gradient of a small model, on any number of devices and processes; run by `test_sharding`.

python -m tests.gradients OUT.npz CASE ...          a CASE is OBJECTIVE:FSDP:BLOCK_ROWS
"""

import functools
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.config.base import get_config
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.parallel import mesh as sharding
from rankclip_jax.parallel import processes as distributed
from rankclip_jax.training.optimizer import make_optimizer
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import create_state, make_gradients, make_init

B, VOCAB = 128, 600
OBJECTIVES = {
    "clip": {"name": "clip"},
    "exact": {"name": "rankclip", "arithmetic": "exact"},
    "released": {"name": "rankclip", "arithmetic": "released"},
}
OPTIMIZER = get_config("mu").optimizer


def make_batch(image_size: int, context_length: int) -> dict[str, np.ndarray]:
    """Random images and texts, a tenth of each twice: on other devices where there are several."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (B, image_size, image_size, 3), np.uint8)
    tokens = rng.integers(1, VOCAB - 2, (B, context_length), np.int32)
    tokens[:, 0] = VOCAB - 2
    tokens[np.arange(B), rng.integers(2, context_length, B)] = VOCAB - 1
    tokens[115:] = tokens[:13]
    images[90:103] = images[20:33]
    return {"images": images, "tokens": tokens}


def parts(objective: str):
    """Towers, objective and optimizer of the smallest model."""
    model = get_preset("mu")
    model.image.layers = model.text.layers = 1
    options = objective_config(OBJECTIVES[objective]["name"])
    if "ramp" in options:
        options.update(OBJECTIVES[objective], ramp="none")
    optimizer = make_optimizer(OPTIMIZER, lambda step: 1e-3)
    return build_towers(model, VOCAB, VOCAB - 1), build_objective(options, RunInfo(100, 10)), optimizer


def compute(case: str) -> dict[str, np.ndarray]:
    """Loss and gradient; of the initial state a digest, and how it is spread."""
    name, fsdp, block_rows = case.split(":")
    towers, objective, _ = parts(name)
    mesh = sharding.make_mesh(fsdp=int(fsdp))
    state, facts = initial(int(fsdp))
    batch = make_batch(towers.image.image_size, towers.text.context_length)
    local, index = B // jax.process_count(), jax.process_index()
    batch = sharding.put_batch({k: v[index * local : (index + 1) * local] for k, v in batch.items()}, mesh)
    gradients = make_gradients(towers, objective, mesh, StepOptions(block_rows=int(block_rows)))
    everywhere = NamedSharding(mesh, P())
    # Half way the ranking terms weigh as much as they ever do.
    weights = {term: jnp.float32(2.0) for term in objective.terms} | {"clip": jnp.float32(1.0)}
    result, grads, _ = jax.jit(gradients, out_shardings=everywhere)(state["params"], batch, weights)
    return {"loss": result.loss, **facts, **dict(_named(grads))}


@functools.cache
def initial(fsdp: int):
    """A state, the same for every objective here, and its facts: compiled once for each division of it."""
    towers, objective, optimizer = parts("clip")
    state = create_state(make_init(towers, objective, optimizer), jax.random.key(0), sharding.make_mesh(fsdp=fsdp))
    return state, {"state": np.array(tree_digests(state)), "bytes": np.array(bytes_per_device(state))}


def bytes_per_device(state) -> list[int]:
    """What each device of this process holds of the state."""
    held = dict.fromkeys(jax.local_devices(), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return list(held.values())


def _named(tree) -> Iterator[tuple[str, jax.Array]]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield f"gradient{jax.tree_util.keystr(path)}", leaf


def main(out: str, *cases: str) -> None:
    distributed.initialize()
    sharding.SMALLEST_SHARDED = 64  # so that fsdp splits even a model for tests
    found = {f"{case}/{name}": np.asarray(x) for case in cases for name, x in compute(case).items()}
    if distributed.is_main():
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
