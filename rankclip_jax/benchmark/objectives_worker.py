"""One case of the objectives benchmark; `worker` says how it is asked.

``time`` and ``peak`` as there; ``analyse`` gives the bytes of temporaries of the compiled program without
running it.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np

from rankclip_jax.benchmark.worker import Answers, serve, timed_and_weighed

LOGIT_SCALE = float(np.log(1 / 0.07))
PAIR = ("image_embeds", "text_embeds")


def embeddings(names: Sequence[str], batch: int, dim: int) -> dict[str, np.ndarray]:
    """Float32 arrays [B, D] whose rows agree as far as those of a model in training do; embeddings have unit norm."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((batch, dim), np.float32)
    made = {name: shared + rng.standard_normal((batch, dim), np.float32) for name in names}
    return {name: x if name.endswith("logits") else _unit_norm(x) for name, x in made.items()}


def _unit_norm(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def jax_case(case: dict) -> Answers:
    import jax

    if case["devices"] > 1:
        jax.config.update("jax_num_cpu_devices", case["devices"])
    from rankclip_jax.objectives import RunInfo, build_objective, objective_config
    from rankclip_jax.objectives.rows import loss_and_gradients
    from rankclip_jax.parallel.mesh import batch_sharding, make_mesh

    config = objective_config(case["objective"])
    if case["arithmetic"]:
        config.arithmetic = case["arithmetic"]
    objective, mesh = build_objective(config, RunInfo(1000, 100)), make_mesh()
    scalars = {name: np.float32(scalar.initial) for name, scalar in objective.scalars.items()}
    weights = {name: np.float32(1.0) for name in objective.terms}

    def of_size(batch: int) -> tuple[Callable[[], object], int]:
        given = embeddings(objective.inputs, batch, case["dim"])
        arguments = (jax.device_put(given, batch_sharding(mesh)), scalars, weights, objective.initial_state())
        compiled = jax.jit(loss_and_gradients(objective, mesh)).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments)), compiled.memory_analysis().temp_size_in_bytes

    of_size(8 * case["devices"])[0]()  # thread pools and kernels are no part of a step
    run, temporary = of_size(case["batch"])
    return timed_and_weighed(run) | {"analyse": lambda: {"bytes": temporary}}


def torch_case(case: dict) -> Answers:
    from rankclip_jax.benchmark.torch_reference import runner

    def of_size(batch: int, dim: int) -> Callable[[], object]:
        return runner(*embeddings(PAIR, batch, dim).values(), LOGIT_SCALE, case["objective"])

    of_size(8, 8)()  # as for jax
    return timed_and_weighed(of_size(case["batch"], case["dim"]))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    serve(lambda case: {"jax": jax_case, "torch": torch_case}[case["framework"]](case))
