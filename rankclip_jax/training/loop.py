"""The training loop: next batch, train step, and then a log line, an evaluation and a checkpoint if they are due."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from rankclip_jax.checkpoints.manager import Checkpoints, Restored
from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import Stopped, UserError
from rankclip_jax.evals.evaluate_dataset import Evaluated, evaluate_splits
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.training import guard as phases
from rankclip_jax.training import setup
from rankclip_jax.training.clock import Clock
from rankclip_jax.training.guard import Guard, StopAgreement
from rankclip_jax.training.metrics import MetricsWriter
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.skipping import CONTINUE, SkippedSteps
from rankclip_jax.training.utilization import Utilization


class Loop:
    """Next batch, train step, and then a log line, an evaluation and a checkpoint if they are due."""

    def __init__(
        self,
        parts: Setup,
        workdir: str,
        writer: MetricsWriter,
        checkpoints: Checkpoints,
        restored: Restored | None,
        copy: Mapping[str, Any],
        guard: Guard,
        usage: Utilization,
    ):
        self.parts, self.config, self.workdir, self.guard = parts, parts.config, workdir, guard
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
        """Train to the end and return the final state; `state` is consumed.

        Raises:
          Stopped: the run was asked to stop, and a checkpoint of the last step is saved.
          UserError: a full disk, or a run that diverges.
        """
        parts, config, guard = self.parts, self.config, self.guard
        train_step = setup.train_step(parts, state)
        diagnose = setup.diagnostics(parts)
        stopping = StopAgreement(guard)
        with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options, self.start) as loader:
            skipped = SkippedSteps(self.workdir, config.skip.stop_after, lambda step: loader.records(step - 1))
            for step in range(self.start + 1, config.duration + 1):
                guard.enter(phases.DATA, step)
                with self.clock.waiting_for_data():
                    batch = next(loader)
                flags = put_batch(guard.flags(), parts.mesh)
                batch = put_batch(batch, parts.mesh)
                guard.enter(phases.TRAIN if guard.in_loop else phases.COMPILE, step)
                is_logged = self._is_due(step, config.log.every)
                with self.clock.paused():  # the first call compiles
                    measured = diagnose(state, batch) if is_logged else {}  # before the step consumes the state
                state, metrics = train_step(state, batch | flags)
                guard.in_loop = True
                must_stop = stopping.reached(metrics.pop(phases.STOP, None))
                self.clock.tick(step, config.batch_size, metrics)
                skipped.add(step, metrics)
                self._flush()  # the previous log line: fetching it does not stall the step just started
                if is_logged:
                    self.pending = (step, metrics | measured)
                self._evaluate_and_save(step, state, skipped)
                if must_stop and step < config.duration:
                    self._stop(step, state, skipped)
        self._flush()
        return state

    def _stop(self, step: int, state: dict, skipped: SkippedSteps) -> None:
        """Save a checkpoint, if this step has none yet, and raise `Stopped`."""
        self.guard.begin_saving(step)
        if self.checkpoints.latest_step != step:
            skipped.finish()
            check_finite(step, parameter_norm(state["params"]))
            self._save(step, state, {})
        self.close()
        processes.barrier("stopped")
        raise Stopped(f"stopped at step {step:,}, which is saved. Run the same command again to continue")

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
        self.guard.in_loop = False  # nothing is lost from now on

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
            self.guard.enter(phases.CHECKPOINT, step)
            self._save(step, state, metrics)

    def _save(self, step: int, state: dict, metrics: dict[str, float]) -> None:
        self._flush()  # a restart begins the log at this step: all lines up to it must be written
        with self.clock.paused():
            meta = {"clock": self.clock.state_dict(), "log": self.writer.packed(), **self.copy}
            self.checkpoints.save(step, state, meta, metrics)

    def _evaluate(self, step: int, state: dict) -> dict[str, float]:
        self.guard.enter(phases.EVALUATE, step)
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
