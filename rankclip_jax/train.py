"""Train a two-tower model, from config to report.

    python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/emoji [--config.KEY=VALUE ...]

After an interruption, the same command continues from the newest intact checkpoint and ends with the same bits. The
flag --resume_from continues a run with another config. A run folder holds ``config.json``, ``metrics.jsonl``,
``tensorboard/``, ``checkpoints/``, ``tokenizer/``, ``eval.json``, ``embeddings.npz`` and ``report.html``.
"""

import contextlib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli, compilation_cache
from rankclip_jax.checkpoints.manager import Checkpoints, Restored
from rankclip_jax.checkpoints.run_copy import copy_meta
from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.config.record import run_record, write_record
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.evals.evaluate_dataset import Evaluated, evaluate_run, evaluate_splits
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.models.counts import parameter_counts
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.report import write_report
from rankclip_jax.run_folder import CHECKPOINTS, checkpoint_steps, has_progress, make_workdir
from rankclip_jax.terminal.redact import redacted_values
from rankclip_jax.terminal.show import show
from rankclip_jax.training import init_from, resume, setup
from rankclip_jax.training.clock import Clock
from rankclip_jax.training.metrics import MetricsWriter
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.skipping import CONTINUE, SkippedSteps
from rankclip_jax.training.startup_card import devices, start_up_card
from rankclip_jax.training.step import abstract_state, create_state, make_init
from rankclip_jax.training.utilization import Utilization, utilization


def train(config: ConfigDict, workdir: str, resume_from: str | None = None) -> dict[str, float]:
    """Train, or continue, the run of `config` in `workdir`; return the final metrics of all splits.

    With `resume_from`, "latest" or a step, a run of another config is changed and continues there: see `resume`.

    Raises:
      UserError: a mistake in the config, the data or the folder, a full disk, or a run that diverges.
    """
    # Setup. All mistakes in the config, the data or the folder are found here, before any parameter exists.
    parts = setup.build(config, workdir)
    config, dataset, folder = parts.config, parts.dataset, str(Path(workdir) / CHECKPOINTS)
    data = {"name": dataset.name, "digest": dataset.digest, "counts": dict(dataset.counts)}
    make_workdir(workdir)
    resuming = has_progress(workdir)
    plan = resume.plan(workdir, config, data, resume_from, resuming)
    processes.check_same("checkpoints", hashlib.sha256(repr(checkpoint_steps(folder)).encode()).hexdigest())
    writer = MetricsWriter(
        workdir,
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        process_index=jax.process_index(),
        config=redacted_values(config.to_dict()),
    )
    processes.barrier("config checked")

    # State: first shapes and shardings, then arrays, which are restored or initialised directly as shards.
    init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
    key = jax.random.key(config.seed)
    abstract = abstract_state(init, key, parts.mesh)
    checkpoints = Checkpoints(folder, keep=config.checkpoint.keep, best_metric=config.checkpoint.best_metric)
    restored = checkpoints.restore(abstract, plan.step) if resuming else None
    changes = resume.begin(plan, checkpoints, restored, parts.learning_rate)
    start = restored.step if restored else 0
    initial = parts.initial if restored is None else None
    beginning = init_from.describe(abstract, initial) if initial else ""
    counts, equation = parameter_counts(abstract), parts.objective.equation
    record = run_record(config, data, devices(parts), counts, equation, changes=changes)
    usage = utilization(parts)
    if processes.is_main():
        write_record(workdir, record)
        setup.save_tokenizer(parts.tokenizer, workdir)
        show(start_up_card(parts, abstract, workdir, start, beginning, usage.describe()))
    state = restored.state if restored else create_state(init, key, parts.mesh)
    state = init_from.begin(state, initial) if initial else state

    # Loop. A finished run is only evaluated again.
    loop = _Loop(parts, workdir, writer, checkpoints, restored, copy_meta(record, parts.tokenizer), usage)
    try:
        state = loop.run(state) if start < config.duration else state
    except (UserError, OSError):
        loop.finish_saving()
        raise
    loop.close()

    # Evaluation and report.
    encoder = make_encoder(parts, state, loop.encoder)
    metrics = evaluate_run(encoder, dataset, config.eval, workdir, config.duration, loop.evaluated)
    if processes.is_main():
        show(f"report: {write_report(workdir)}")
    processes.barrier("report written", processes.LONG_SECONDS)  # the others' exit would end this process
    return metrics


class _Loop:
    """Next batch, train step, and then a log line, an evaluation and a checkpoint if they are due."""

    def __init__(
        self,
        parts: Setup,
        workdir: str,
        writer: MetricsWriter,
        checkpoints: Checkpoints,
        restored: Restored | None,
        copy: Mapping[str, Any],
        usage: Utilization,
    ):
        self.parts, self.config, self.workdir = parts, parts.config, workdir
        self.writer, self.checkpoints = writer, checkpoints
        self.copy = copy  # of the run's files, for every checkpoint
        self.usage = usage
        self.start = restored.step if restored else 0
        self.writer.restart(self.start, restored.meta.get("log") if restored else None)
        self.clock = Clock(
            self.config.duration,
            start_step=self.start,
            state=restored.meta.get("clock") if restored else None,
            show=processes.is_main(),
            wait_hint="raise config.data.num_threads, or choose lighter "
            "augmentation; python -m rankclip_jax.data bench shows which stage limits",
        )
        self.encoder: Encoder | None = None  # made at the first evaluation
        self.evaluated: Evaluated | None = None  # with the weights of the last step
        self.pending: tuple[int, dict[str, Any]] | None = None  # a log line that is not written yet

    def run(self, state: dict) -> dict:
        """Train to the end and return the final state; `state` is consumed."""
        parts, config = self.parts, self.config
        train_step = setup.train_step(parts, state)
        diagnose = setup.diagnostics(parts)
        with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options, self.start) as loader:
            skipped = SkippedSteps(self.workdir, config.skip.stop_after, lambda step: loader.records(step - 1))
            for step in range(self.start + 1, config.duration + 1):
                with self.clock.waiting_for_data():
                    batch = next(loader)
                batch = put_batch(batch, parts.mesh)
                is_logged = self._is_due(step, config.log.every)
                with self.clock.paused():  # the first call compiles
                    measured = diagnose(state, batch) if is_logged else {}  # before the step consumes the state
                state, metrics = train_step(state, batch)
                self.clock.tick(step, config.batch_size, metrics)
                skipped.add(step, metrics)
                self._flush()  # the previous log line: fetching it does not stall the step just started
                if is_logged:
                    self.pending = (step, metrics | measured)
                self._evaluate_and_save(step, state, skipped)
        self._flush()
        return state

    def finish_saving(self) -> None:
        """After an error, wait for the save in the background: otherwise its checkpoint would be lost.

        With several processes this does nothing: another process may have stopped already, and waiting would not end.
        """
        if not processes.is_multi_process():
            with contextlib.suppress(UserError):
                self.checkpoints.close()

    def close(self) -> None:
        """Wait until everything is on disk, and close the progress bars."""
        self.checkpoints.close()
        self.writer.close()
        self.clock.close()

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.config.duration or (every > 0 and step % every == 0)

    def _flush(self) -> None:
        """Write the pending log line."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in metrics.items()}
        skipped_before = int(values["skipped_steps"]) - (values.pop("skipped_in_row") > 0)
        # A skipped step does not move the schedule on.
        values["learning_rate"] = float(self.parts.learning_rate(step - 1 - skipped_before))
        rates = self.clock.report()
        used = self.usage.measure(rates)
        line = {name if "/" in name else f"train/{name}": value for name, value in (values | rates | used).items()}
        self.writer.write(step, line)
        self.clock.show({name: values[name] for name in ("loss", *self.parts.objective.terms)}, step, used)

    def _evaluate_and_save(self, step: int, state: dict, skipped: SkippedSteps) -> None:
        config = self.config
        saving = self._is_due(step, config.checkpoint.every)
        if saving:  # saved diverged states would replace the intact checkpoints
            skipped.finish()
            check_finite(step, parameter_norm(state["params"]))
        # To find the best checkpoint, every checkpoint must be evaluated.
        evaluating = self._is_due(step, config.eval.every) or (saving and bool(config.checkpoint.best_metric))
        metrics = self._evaluate(step, state) if evaluating else {}
        if saving:
            self._flush()  # a restart begins the log at this step: all lines up to it must be written
            with self.clock.paused():
                meta = {"clock": self.clock.state_dict(), "log": self.writer.packed(), **self.copy}
                self.checkpoints.save(step, state, meta, metrics)

    def _evaluate(self, step: int, state: dict) -> dict[str, float]:
        with self.clock.paused():
            self.encoder = make_encoder(self.parts, state, self.encoder)
            splits, names = self.config.eval.train_splits, self.config.eval.metrics
            found = evaluate_splits(self.encoder, self.parts.dataset, splits, names)
            self.writer.write(step, found.metrics)
        self.evaluated = found if step == self.config.duration else None
        return found.metrics


def make_encoder(parts: Setup, state: dict, compiled: Encoder | None = None) -> Encoder:
    """An encoder with the weights of `state`; with their moving averages if the run has them.

    `compiled` is an earlier encoder of the run, which is reused with the new weights.
    """
    weights = Weights.of_state(state)
    encoder = compiled or Encoder(parts.towers, weights, parts.tokenizer, parts.mesh)
    encoder.weights = weights
    return encoder


parameter_norm = jax.jit(optax.tree.norm)


def check_finite(step: int, norm: jax.Array) -> None:
    """Stop a run whose parameters have overflowed, which a finite gradient can do; its earlier checkpoints are kept.

    Raises:
      UserError: the norm of the parameters is NaN or infinite.
    """
    if not math.isfinite(norm):
        raise UserError(f"the norm of the parameters is {float(norm)} at step {step}: the run has diverged. {CONTINUE}")


def main(argv: list[str]) -> None:
    del argv
    start(CONFIG.value, WORKDIR.value, RESUME_FROM.value)


def start(config: ConfigDict, workdir: str, resume_from: str | None = None) -> None:
    """Prepare this process for JAX, and `train`."""
    processes.initialize()  # before any other use of jax
    if config.compilation_cache:
        compilation_cache.enable()
    train(config, workdir, resume_from)


if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", None, "run folder; created if missing", required=True)
    RESUME_FROM = flags.DEFINE_string(
        "resume_from", None, '"latest" or the step of a checkpoint: continue a run there although the config differs'
    )
    cli.run(main)
