"""The train step of one config with several objectives, in turns within one run.

    python -m rankclip_jax.benchmark step --config=configs/emoji.py [--objectives=clip,rankclip] [--json=FILE]

The objectives take turns, A B A B ..., on the same batch of the config's own data. Whatever else the machine
does meanwhile then slows all of them alike, and the median of the ratios of neighbours is steady where the
ratio of two runs is not. An objective named twice measures what noise is left.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import jax
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from rankclip_jax import cli
from rankclip_jax.benchmark.rows_file import check_rows_file, write_rows
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.objectives import objective_config
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.text_table import text_table
from rankclip_jax.training import setup
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.step import create_state, make_init

WARM_UP = 2  # steps of each objective before the first that counts; the first of them compiles


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, and each as a multiple of the first objective's in the same round."""

    benchmark: str
    framework: str
    objective: str
    arithmetic: str
    model: str
    batch: int
    dim: int
    platform: str
    devices: int
    rounds: int
    seconds: float
    seconds_min: float
    seconds_max: float
    ratio: float
    ratio_min: float
    ratio_max: float


def define_flags() -> None:
    """Define this benchmark's flags."""
    cli.define_config()
    flags.DEFINE_list("objectives", ["clip", "rankclip"], "what to compare, the first being the measure of the rest")
    flags.DEFINE_integer("rounds", 20, "timed steps of each objective", lower_bound=1)
    flags.DEFINE_string("json", None, "file to write the rows to")


def main(argv: list[str]) -> None:
    """Measure, print a table, write the rows."""
    chosen = flags.FLAGS
    if argv[2:]:
        raise UserError(f"unexpected argument {argv[2]!r}: the step benchmark takes flags only, see --help.")
    check_rows_file(chosen.json)
    processes.initialize()
    timings = measure(chosen.config, chosen.objectives, chosen.rounds)
    if processes.is_main():
        print(describe(timings))
        write_rows(chosen.json, [asdict(timing) for timing in timings])


def measure(config: ConfigDict, objectives: Sequence[str], rounds: int) -> list[Timing]:
    """Time `rounds` train steps of each of `objectives`, in turns.

    Raises:
      UserError: an unknown objective, or anything that a training run would refuse.
    """
    if not objectives:
        raise UserError("--objectives is empty: name at least one, such as --objectives=clip,rankclip.")
    built = [setup.build(_with_objective(config, name)) for name in objectives]
    steps = [_stepper(each, _one_batch(each)) for each in built]
    hidden = None if processes.is_main() else True  # None: shown on a terminal only
    for step in tqdm(steps, desc="compiling", unit="objective", leave=False, disable=hidden):
        for _ in range(WARM_UP):
            step()
    turns = tqdm(range(rounds), desc="timing", unit="round", leave=False, disable=hidden)
    seconds = [[step() for step in steps] for _ in turns]
    return [_timing(each, seconds, column) for column, each in enumerate(built)]


def _with_objective(config: ConfigDict, name: str) -> ConfigDict:
    """The config with another objective at its defaults; options of its own objective are kept."""
    config = config.copy_and_resolve_references()
    if name != config.objective.name:
        with config.unlocked():
            config.objective = objective_config(name)
    return config


def _one_batch(parts: Setup) -> dict[str, jax.Array]:
    with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options) as loader:
        return put_batch(next(loader), parts.mesh)


def _stepper(parts: Setup, batch: dict[str, jax.Array]) -> Callable[[], float]:
    """A function that takes one train step and returns its seconds."""
    init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
    state = create_state(init, jax.random.key(parts.config.seed), parts.mesh)
    step = setup.train_step(parts, state)

    def timed() -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return timed


def _timing(parts: Setup, seconds: list[list[float]], column: int) -> Timing:
    own = [row[column] for row in seconds]
    ratios = [row[column] / row[0] for row in seconds]
    config, name = parts.config, parts.objective.name
    return Timing(
        benchmark="step",
        framework="jax",
        objective=name,
        arithmetic=config.objective.get("arithmetic", ""),
        model=config.model.name,
        batch=config.batch_size,
        dim=config.model.embed_dim,
        platform=parts.mesh.devices.flat[0].platform,
        devices=parts.mesh.size,
        rounds=len(seconds),
        seconds=statistics.median(own),
        seconds_min=min(own),
        seconds_max=max(own),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
    )


def describe(timings: Sequence[Timing]) -> str:
    """The table, under a line that says what was measured."""
    first = timings[0]
    rows = [("objective", "ms a step", "min", "max", f"x {first.objective}", "min", "max")]
    for t in timings:
        times = [f"{1000 * value:.1f}" for value in (t.seconds, t.seconds_min, t.seconds_max)]
        ratios = [f"{value:.3f}" for value in (t.ratio, t.ratio_min, t.ratio_max)]
        rows.append((" ".join(filter(None, (t.objective, t.arithmetic))), *times, *ratios))
    head = (
        f"train step of {first.model}, batch {first.batch}, {first.devices} x {first.platform}: medians of "
        f"{first.rounds} rounds in turns, and of the ratios within a round"
    )
    return f"{head}\n{text_table(rows)}"
