"""The training step of one config with several objectives.

    python -m rankclip_jax.benchmark step --config=configs/emoji.py [--objectives=clip,rankclip] [--json=FILE]

All objectives train on the same batch of the config's own data. They run in this process, because a TPU accepts one
process only, and several processes can join a cluster only once. Name an objective twice to see the remaining noise.
"""

from collections.abc import Callable, Iterator

import jax
from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.plan.cases import with_objective
from rankclip_jax.training import setup
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.step import create_state, make_init


def define_flags() -> None:
    cli.define_config()
    flags.DEFINE_list("objectives", ["clip", "rankclip"], "objectives to compare; ratios are to the first")


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    if not chosen.objectives:
        raise UserError("--objectives is empty: name at least one, such as --objectives=clip,rankclip.")
    processes.initialize()
    yield [{"objective": name, "config": chosen.config} for name in chosen.objectives]


def build(case: Row) -> Case:
    """Build the model, the objective and one batch; a run is one training step."""
    parts = setup.build(with_objective(case["config"], case["objective"]))
    config = parts.config
    columns = {
        "framework": "jax",
        "objective": config.objective.name,
        "arithmetic": config.objective.get("arithmetic", ""),
        "model": config.model.name,
        "batch": config.batch_size,
        "dim": config.model.embed_dim,
        "platform": parts.mesh.devices.flat[0].platform,
        "devices": parts.mesh.size,
    }
    return Case(_training_step(parts, _one_batch(parts)), columns)


def _one_batch(parts: Setup) -> dict[str, jax.Array]:
    with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options) as loader:
        return put_batch(next(loader), parts.mesh)


def _training_step(parts: Setup, batch: dict[str, jax.Array]) -> Callable[[], None]:
    init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
    state = create_state(init, jax.random.key(parts.config.seed), parts.mesh)
    step = setup.train_step(parts, state)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


BENCHMARK = Benchmark(
    "training step",
    labels=("objective", "arithmetic"),
    about=("model", "batch", "devices", "platform"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    rounds=20,
    warm_up=2,  # the first step compiles
    in_process=True,
)
