"""One case of the objectives benchmark in a process of its own, so that its memory is its own.

Reads lines on standard input and answers each with a line of JSON: ``time`` runs once and gives seconds,
``peak`` does so too and gives the peak of resident memory above what was there before, ``analyse`` gives the
bytes of temporaries of the compiled program without running it.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

LOG_SCALE = float(np.log(1 / 0.07))
PAIR = ("image_embeds", "text_embeds")
STATUS = Path("/proc/self/status")


def main() -> None:
    case = json.loads(sys.argv[1])
    answers = jax_case(case) if case["framework"] == "jax" else _torch_case(case)
    _answer({"ready": True})
    for line in sys.stdin:
        _answer(answers[line.strip()]())


def _answer(values: dict) -> None:
    print(json.dumps(values), flush=True)


def embeddings(names: Sequence[str], batch: int, dim: int) -> dict[str, np.ndarray]:
    """Float32 arrays [B, D] whose rows agree as far as those of a model in training do; embeddings have unit norm."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((batch, dim), np.float32)
    made = {name: shared + rng.standard_normal((batch, dim), np.float32) for name in names}
    norms = {
        name: 1.0 if name.endswith("logits") else np.linalg.norm(x, axis=1, keepdims=True) for name, x in made.items()
    }
    return {name: x / norms[name] for name, x in made.items()}


def jax_case(case: dict) -> dict[str, Callable[[], dict]]:
    import jax

    jax.config.update("jax_num_cpu_devices", case["devices"])
    from rankclip_jax.objectives import RunLength, build_objective, objective_config
    from rankclip_jax.objectives.rows import loss_and_gradients
    from rankclip_jax.sharding import batch_sharding, make_mesh

    config = objective_config(case["objective"])
    if case["arithmetic"]:
        config.arithmetic = case["arithmetic"]
    objective, mesh = build_objective(config, RunLength(1000, 100)), make_mesh()
    scalars = {name: np.float32(scalar.initial) for name, scalar in objective.scalars.items()}
    weights = {name: np.float32(1.0) for name in objective.terms}

    def of_size(batch: int) -> tuple[Callable[[], object], int]:
        given = embeddings(objective.needs, batch, case["dim"])
        arguments = (jax.device_put(given, batch_sharding(mesh)), scalars, weights, objective.initial_state())
        compiled = jax.jit(loss_and_gradients(objective, mesh)).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments)), compiled.memory_analysis().temp_size_in_bytes

    of_size(8 * case["devices"])[0]()  # thread pools and kernels are no part of a step
    run, temporary = of_size(case["batch"])
    return _answers(run) | {"analyse": lambda: {"bytes": temporary}}


def _torch_case(case: dict) -> dict[str, Callable[[], dict]]:
    from rankclip_jax.benchmark.torch_reference import runner

    def of_size(batch: int, dim: int) -> Callable[[], object]:
        return runner(*embeddings(PAIR, batch, dim).values(), LOG_SCALE, case["objective"])

    of_size(8, 8)()  # as for jax
    return _answers(of_size(case["batch"], case["dim"]))


def _answers(run: Callable[[], object]) -> dict[str, Callable[[], dict]]:
    def timed() -> dict:
        began = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - began}

    def peak() -> dict:
        before = _reset_peak()
        return timed() | {"bytes": max(0, _peak() - before)}

    return {"time": timed, "peak": peak}


def _reset_peak() -> int:
    """Set the peak of resident memory to what is resident now, where the system can, and return that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
