"""One case of the towers benchmark; `worker` says how it is asked.

``describe`` gives {"device", "compile_seconds", "parameters"}, ``time`` takes one train step.
"""

import time

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.benchmark.worker import Answers, serve, timed_and_weighed
from rankclip_jax.models.presets import get_preset

VOCABULARY = 49_408
EOT = VOCABULARY - 1
OPTIMIZER = {"b1": 0.9, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.1, "clip_norm": 0.0}


def pairs(model: ConfigDict, batch: int) -> dict[str, np.ndarray]:
    """Noise for images, uint8 [B, S, S, 3], and captions of all lengths, int32 [B, L]."""
    rng = np.random.default_rng(0)
    side, length = model.image.image_size, model.text.context_length
    tokens = rng.integers(0, EOT - 1, (batch, length)).astype(np.int32)
    ends = rng.integers(2, length, batch)
    tokens[np.arange(length) >= ends[:, None]] = 0
    tokens[np.arange(batch), ends] = EOT
    return {"images": rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8), "tokens": tokens}


def jax_case(case: dict) -> Answers:
    import jax
    import optax

    from rankclip_jax.models.two_towers import build_towers
    from rankclip_jax.objectives import RunInfo, build_objective, objective_config
    from rankclip_jax.parallel.mesh import make_mesh, put_batch
    from rankclip_jax.training.optimizer import make_optimizer
    from rankclip_jax.training.step import create_state, jit_train_step, make_init, make_train_step

    model = get_preset(case["model"])
    model.dtype = case["dtype"]
    mesh, towers = make_mesh(), build_towers(model, VOCABULARY, EOT)
    objective = build_objective(objective_config("clip"), RunInfo(1000, 100))
    optimizer = make_optimizer(ConfigDict(OPTIMIZER), optax.constant_schedule(1e-5))
    state = create_state(make_init(towers, objective, optimizer), jax.random.key(0), mesh)
    parameters = sum(x.size for x in jax.tree.leaves(state["params"]))
    batch = put_batch(pairs(model, case["batch"]), mesh)
    step = jit_train_step(make_train_step(towers, objective, optimizer, mesh), state, mesh)
    began = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    told = {"device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}", "parameters": parameters}
    told["compile_seconds"] = time.perf_counter() - began

    def run():
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return timed_and_weighed(run) | {"describe": lambda: told}


def torch_case(case: dict) -> Answers:
    from rankclip_jax.benchmark.torch_towers import make_step

    model = get_preset(case["model"])
    began = time.perf_counter()
    run, device, parameters = make_step(model, pairs(model, case["batch"]), VOCABULARY, case["dtype"], case["compiled"])
    told = {"device": device, "parameters": parameters, "compile_seconds": None}
    if case["compiled"]:
        run()
        told["compile_seconds"] = time.perf_counter() - began
    return timed_and_weighed(run) | {"describe": lambda: told}


if __name__ == "__main__":
    serve(lambda case: {"jax": jax_case, "torch": torch_case}[case["framework"]](case))
