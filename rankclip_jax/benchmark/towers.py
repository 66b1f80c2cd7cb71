"""The training step of a model preset with CLIP's loss, compared with transformers' model in PyTorch.

    python -m rankclip_jax.benchmark towers --models=ViT-B/32 --batch=16 --frameworks=jax,torch [--json=FILE]

Images and tokens are random and on the device. The cases of one model take turns in separate processes. A turn is two
steps, and the second is timed: the system takes free memory away from an idle process, which slows the first step after
a pause. In training there is no pause.
"""

import time
from collections.abc import Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.config.base import get_config
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.image_size import height_width_of
from rankclip_jax.models.flops import train_flops
from rankclip_jax.models.presets import PRESETS, get_preset

FRAMEWORKS = ("jax", "torch")
VOCABULARY = 49_408
EOT = VOCABULARY - 1
OPTIMIZER = get_config("mu").optimizer  # AdamW as in CLIP


def define_flags() -> None:
    flags.DEFINE_list("models", ["ViT-B/32"], "model presets")
    flags.DEFINE_integer("batch", 16, "pairs in a step", lower_bound=1)
    flags.DEFINE_list("frameworks", ["jax"], "jax, torch (needs the extra torch)")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype in which the towers compute")
    flags.DEFINE_string("attention", "auto", "form of attention: config.model.attention")
    flags.DEFINE_bool("torch_compile", False, "compile the PyTorch model")
    flags.DEFINE_float("peak_tflops", 0.0, "peak TFLOP/s of all devices, for the MFU; 0: as known for JAX's devices")


def groups(chosen: flags.FlagValues) -> list[list[Row]]:
    """Return one group for each model."""
    for framework in chosen.frameworks:
        lookup(dict.fromkeys(FRAMEWORKS), framework, "framework")
    for model in chosen.models:
        lookup(PRESETS, model, "model preset")
        _check_torch_has(model, chosen.frameworks)
    return [[_case(chosen, model, framework) for framework in chosen.frameworks] for model in chosen.models]


def _check_torch_has(name: str, frameworks: Sequence[str]) -> None:
    image = get_preset(name).image
    if "torch" in frameworks and (image.tower != "vit" or image.pool != "class"):
        raise UserError(f"--models: {name} is not a model of transformers' CLIPModel: leave torch out of --frameworks.")


def _case(chosen: flags.FlagValues, model: str, framework: str) -> Row:
    compiled = framework == "jax" or chosen.torch_compile
    columns = {"model": model, "framework": framework, "compiled": compiled, "batch": chosen.batch}
    return columns | {"dtype": chosen.dtype, "attention": chosen.attention, "peak_tflops": chosen.peak_tflops}


def pairs(model: ConfigDict, batch: int) -> dict[str, np.ndarray]:
    """Return random images, uint8 [B, S, S, 3], and random tokens of all lengths, int32 [B, L]."""
    rng = np.random.default_rng(0)
    size, length = height_width_of(model.image.image_size), model.text.context_length
    tokens = rng.integers(0, EOT - 1, (batch, length)).astype(np.int32)
    ends = rng.integers(2, length, batch)
    tokens[np.arange(length) >= ends[:, None]] = 0
    tokens[np.arange(batch), ends] = EOT
    return {"images": rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8), "tokens": tokens}


def build(case: Row) -> Case:
    """Build the model and compile its step; a run is one training step."""
    return {"jax": jax_case, "torch": torch_case}[case["framework"]](case)


def jax_case(case: Row) -> Case:
    import jax
    import optax

    from rankclip_jax.models.two_towers import build_towers
    from rankclip_jax.objectives import RunInfo, build_objective, objective_config
    from rankclip_jax.parallel.device_peaks import peaks_of
    from rankclip_jax.parallel.mesh import make_mesh, put_batch
    from rankclip_jax.training.optimizer import make_optimizer
    from rankclip_jax.training.step import create_state, jit_train_step, make_init, make_train_step

    model = get_preset(case["model"])
    model.dtype = case["dtype"]
    model.attention = case["attention"]
    mesh = make_mesh()
    towers = build_towers(model, VOCABULARY, EOT, mesh.size, mesh.devices.flat[0])
    objective = build_objective(objective_config("clip"), RunInfo(1000, 100))
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(1e-5))
    state = create_state(make_init(towers, objective, optimizer), jax.random.key(0), mesh)
    facts = {"device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}"}
    peaks = peaks_of(mesh.devices.flat[0].device_kind)
    if peaks and not case["peak_tflops"]:
        facts["peak_tflops"] = mesh.size * peaks.flops / 1e12
    facts["parameters"] = sum(x.size for x in jax.tree.leaves(state["params"]))
    batch = put_batch(pairs(model, case["batch"]), mesh)
    step = jit_train_step(make_train_step(towers, objective, optimizer, mesh), state, mesh)
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    facts["compile_seconds"] = time.perf_counter() - start

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return Case(run, case | facts)


def torch_case(case: Row) -> Case:
    from rankclip_jax.benchmark.torch_towers import make_step

    model = get_preset(case["model"])
    start = time.perf_counter()
    run, device, parameters = make_step(model, pairs(model, case["batch"]), VOCABULARY, case["dtype"], case["compiled"])
    facts = {"device": device, "parameters": parameters, "compile_seconds": None}
    if case["compiled"]:
        run()
        facts["compile_seconds"] = time.perf_counter() - start
    return Case(run, case | facts)


def _tflops(row: Row) -> float | None:
    return row["batch"] * train_flops(get_preset(row["model"])) / row["seconds"] / 1e12 or None


def _mfu(row: Row) -> float | None:
    tflops = _tflops(row)
    return tflops / row["peak_tflops"] if tflops and row["peak_tflops"] else None


BENCHMARK = Benchmark(
    "training step",
    labels=("framework", "model"),
    about=("batch", "dtype", "device"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    is_base=lambda case, other: other["framework"] == "torch",
    derived={
        "images_per_second": lambda row: row["batch"] / row["seconds"],
        "speed_over_torch": lambda row: 1 / row["ratio"] if row["ratio"] else None,
        "compile_seconds": lambda row: row["compile_seconds"],
        "tflops_per_second": _tflops,
        "mfu": _mfu,
    },
    runs=2,
)
