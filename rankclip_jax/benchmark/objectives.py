"""Objectives alone: loss and gradients of random embeddings, by batch size, compared with the released arithmetic.

    python -m rankclip_jax.benchmark objectives [--batch=256,1024] [--objectives=clip,rankclip] [--json=FILE]
    python -m rankclip_jax.benchmark objectives --objectives=rankclip --block_rows=0,64,128,256,512,1024

The cases of one batch size take turns in separate processes. For both frameworks, `peak_bytes` is the peak of the
process's resident memory during one computation, minus the resident memory before. Batches above `--run_up_to` are only
compiled; their `peak_bytes` is the temporary memory of the compiled program.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.objectives import OBJECTIVES, objective_config

ALL = tuple(name for name in OBJECTIVES if name != "rankclip_released")  # rankclip has both arithmetics
ARITHMETICS = ("exact", "released")
FRAMEWORKS = ("jax", "torch")
IN_TORCH = ("clip", "rankclip")
TORCH_UP_TO = 4096  # pairs; the full matrices and autograd need tens of GB above this
LOGIT_SCALE = float(np.log(1 / 0.07))
PAIR = ("image_embeds", "text_embeds")
SMALL = 8  # pairs of a first run that starts thread pools


def define_flags() -> None:
    flags.DEFINE_list("batch", ["256", "1024", "4096"], "batch sizes")
    flags.DEFINE_list("objectives", [], "objectives to measure, all by default")
    flags.DEFINE_list("arithmetics", list(ARITHMETICS), "arithmetics of rankclip: exact, released")
    flags.DEFINE_list("frameworks", ["jax"], "jax, torch (needs the extra torch)")
    flags.DEFINE_list("block_rows", ["0"], "rows of a block to compare (config.objective.block_rows); 0: the default")
    flags.DEFINE_integer("dim", 512, "embedding size", lower_bound=1)
    flags.DEFINE_integer("devices", 1, "virtual CPU devices that jax splits the batch over", lower_bound=1)
    flags.DEFINE_integer("run_up_to", 4096, "largest batch size to run; larger ones are only compiled", lower_bound=1)


def groups(chosen: flags.FlagValues) -> list[list[Row]]:
    """Return one group for each batch size."""
    for name, least in (("batch", 1), ("block_rows", 0)):
        given = chosen[name].value
        if not given or not all(text.isdigit() and int(text) >= least for text in given):
            raise UserError(f"--{name}={','.join(given)}: expected whole numbers from {least}, such as 256,1024.")
    for kind, known in (("arithmetic", ARITHMETICS), ("framework", FRAMEWORKS), ("objective", OBJECTIVES)):
        for name in chosen[f"{kind}s"].value:
            lookup(dict.fromkeys(known), name, kind)
    return [_cases(chosen, int(batch)) for batch in chosen.batch]


def _cases(chosen: flags.FlagValues, batch: int) -> list[Row]:
    run = batch <= chosen.run_up_to
    shared = {"batch": batch, "dim": chosen.dim, "devices": chosen.devices, "run": run}
    return [
        {"objective": name, "arithmetic": arithmetic, "framework": framework, "block_rows": rows, **shared}
        for framework in chosen.frameworks
        for name in chosen.objectives or ALL
        if framework == "jax" or (name in IN_TORCH and batch <= TORCH_UP_TO and run)
        for arithmetic in _arithmetics(framework, name, chosen.arithmetics)
        for rows in (map(int, chosen.block_rows) if framework == "jax" else (0,))
    ]


def _arithmetics(framework: str, name: str, chosen: Sequence[str]) -> Sequence[str]:
    default = objective_config(name).get("arithmetic", "")
    if framework == "jax" and default == "exact":
        return chosen
    return ("released",) if default else ("",)


def embeddings(names: Sequence[str], batch: int, dim: int) -> dict[str, np.ndarray]:
    """Return float32 arrays [B, D]: pairs agree about as well as in training; embeddings have unit norm."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((batch, dim), np.float32)
    made = {name: shared + rng.standard_normal((batch, dim), np.float32) for name in names}
    norms = {name: np.linalg.norm(x, axis=1, keepdims=True) for name, x in made.items()}
    return {name: x if name.endswith("logits") else x / norms[name] for name, x in made.items()}


def build(case: Row) -> Case:
    """Build and compile the case; a run computes loss and gradients."""
    return {"jax": jax_case, "torch": torch_case}[case["framework"]](case)


def jax_case(case: Row) -> Case:
    import jax

    if not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")
    if case["devices"] > 1:
        jax.config.update("jax_num_cpu_devices", case["devices"])
    from rankclip_jax.objectives import RunInfo, build_objective
    from rankclip_jax.objectives.rows import loss_and_gradients
    from rankclip_jax.parallel.mesh import batch_sharding, make_mesh

    config = objective_config(case["objective"])
    if case["arithmetic"]:
        config.arithmetic = case["arithmetic"]
    objective, mesh = build_objective(config, RunInfo(1000, 100)), make_mesh()
    scalars = {name: np.float32(scalar.initial) for name, scalar in objective.scalars.items()}
    weights = {name: np.float32(1.0) for name in objective.terms}

    def of_size(batch: int) -> tuple[Callable[[], object], int]:
        arrays = embeddings(objective.inputs, batch, case["dim"])
        arguments = (jax.device_put(arrays, batch_sharding(mesh)), scalars, weights, objective.initial_state())
        compiled = jax.jit(loss_and_gradients(objective, mesh, case["block_rows"])).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments)), compiled.memory_analysis().temp_size_in_bytes

    of_size(SMALL * case["devices"])[0]()
    run, compiled_bytes = of_size(case["batch"])
    peak = {"peak_of": "resident"} if case["run"] else {"peak_of": "compiled", "peak_bytes": compiled_bytes}
    return Case(run, case | peak)


def torch_case(case: Row) -> Case:
    from rankclip_jax.benchmark.torch_reference import runner

    def of_size(batch: int) -> Callable[[], object]:
        return runner(*embeddings(PAIR, batch, case["dim"]).values(), LOGIT_SCALE, case["objective"])

    of_size(SMALL)()
    return Case(of_size(case["batch"]), case | {"peak_of": "resident"})


BENCHMARK = Benchmark(
    "loss and gradients",
    labels=("objective", "arithmetic", "framework", "batch", "block_rows"),
    about=("dim", "devices"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    is_base=lambda case, other: other["objective"] == "clip" and other["framework"] == case["framework"],
    memory=True,
    min_rounds=0,
)
