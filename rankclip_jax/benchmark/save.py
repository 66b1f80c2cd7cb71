"""What logging and checkpoints add to the time of training.

    python -m rankclip_jax.benchmark save --config=configs/emoji.py [--steps=100] [--rounds=5] [--json=FILE]

A run is ``--steps`` training steps of the config with its own data, with loading:

    steps  nothing else
    log    a log line every `config.log.every` steps, with the diagnostics and TensorBoard as in the config
    save   log lines, and a checkpoint at the end of the run, until it is on disk (training goes on meanwhile)

"blocked" is the time in which the loop logged or saved, and so could not start a step, in percent of the run; waiting
for the end of the save is not in it. Evaluations are left out: they depend on the data of the evaluation.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.run_copy import copy_meta
from rankclip_jax.config.record import run_record
from rankclip_jax.data.loader import Loader
from rankclip_jax.models.counts import parameter_counts
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.clock import Clock
from rankclip_jax.training.metrics import MetricsWriter
from rankclip_jax.training.step import create_state, make_init

STEPS, LOG, SAVE = "steps", "log", "save"


def define_flags() -> None:
    cli.define_config()
    flags.DEFINE_integer("steps", 100, "training steps in a run, and between two checkpoints", lower_bound=1)


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    with tempfile.TemporaryDirectory() as folder:
        yield [
            {"does": name, "steps": chosen.steps, "folder": folder, "config": chosen.config}
            for name in (STEPS, LOG, SAVE)
        ]


def build(case: Row) -> Case:
    """Build the run; its first steps compile in the warm-up."""
    training = _Training(case)
    config = training.parts.config
    columns = {"does": case["does"], "model": config.model.name, "batch": config.batch_size, "steps": case["steps"]}
    columns |= {"log_every": config.log.every, "blocked": 0.0}

    def run() -> None:
        columns["blocked"] = training.run()

    return Case(run, columns)


class _Training:
    """The parts of `train` that belong to its steps, its log and its checkpoints."""

    def __init__(self, case: Row):
        self.does, self.steps = case["does"], case["steps"]
        self.parts = parts = setup.build(case["config"].copy_and_resolve_references())
        workdir = f"{case['folder']}/{self.does}"
        init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
        self.state = create_state(init, jax.random.key(parts.config.seed), parts.mesh)
        self.train_step, self.diagnose = setup.train_step(parts, self.state), setup.diagnostics(parts)
        self.loader = Loader(parts.dataset.train, parts.tokenizer, parts.loader_options)
        self.writer = MetricsWriter(workdir, tensorboard=parts.config.log.tensorboard)
        self.checkpoints = Checkpoints(f"{workdir}/checkpoints", keep=parts.config.checkpoint.keep)
        data = {"name": parts.dataset.name, "digest": parts.dataset.digest, "counts": dict(parts.dataset.counts)}
        record = run_record(parts.config, data, {}, parameter_counts(self.state), parts.objective.equation)
        self.copy = copy_meta(record, parts.tokenizer)
        self.clock = Clock(sys.maxsize, show=False)
        self.step, self.pending = 0, None

    def run(self) -> float:
        """Train, and return the percentage of the time in which the loop logged or saved."""
        began, self.blocked = time.perf_counter(), 0.0
        for _ in range(self.steps):
            self._one_step()
        if self.does == SAVE:
            jax.block_until_ready(self.state)
            with self._blocking():
                self._flush()
                self.checkpoints.save(self.step, self.state, {"log": self.writer.packed(), **self.copy})
            self.checkpoints.wait()
        jax.block_until_ready(self.state)
        return 100 * self.blocked / (time.perf_counter() - began)

    def _one_step(self) -> None:
        self.step += 1
        batch = put_batch(next(self.loader), self.parts.mesh)
        is_logged = self.does != STEPS and self.step % self.parts.config.log.every == 0
        measured = {}
        if is_logged:
            jax.block_until_ready((self.state, batch))
            with self._blocking():
                measured = jax.block_until_ready(self.diagnose(self.state, batch))
        self.state, metrics = self.train_step(self.state, batch)
        self.clock.tick(self.step, self.parts.config.batch_size, metrics)
        if self.pending is not None:
            jax.block_until_ready(self.pending)
        with self._blocking():
            self._flush()
        self.pending = (self.step, metrics | measured) if is_logged else None

    @contextlib.contextmanager
    def _blocking(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.blocked += time.perf_counter() - began

    def _flush(self) -> None:
        if self.pending is not None:
            (step, values), self.pending = self.pending, None
            self.writer.write(step, values | self.clock.report())


BENCHMARK = Benchmark(
    "training steps with logging and checkpoints",
    labels=("does",),
    about=("model", "batch", "steps", "log_every"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    derived={
        "blocked, %": lambda row: row["blocked"],
        "added, %": lambda row: 100 * (row["ratio"] - 1) if row["ratio"] else None,
    },
    rounds=5,
    warm_up=1,  # the first steps compile
    in_process=True,
)
