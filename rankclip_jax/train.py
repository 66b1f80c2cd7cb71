"""Train a two-tower model: the story from config to report, read top to bottom.

    python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/emoji [--config.KEY=VALUE ...]

The same command again continues a run that was stopped, from its newest sound checkpoint, to the
same final bits. A run folder holds ``config.json``, ``metrics.jsonl``, ``tensorboard/``,
``checkpoints/``, ``tokenizer/``, ``eval.json``, ``embeddings.npz`` and ``report.html``.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli
from rankclip_jax.checkpoints.manager import Checkpoints, Restored
from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.config.changes import check_same_run
from rankclip_jax.config.record import save_run_config
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.evals.run import evaluate_run, evaluate_splits
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.models.counts import parameter_counts
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.report import write_report
from rankclip_jax.run_folder import CHECKPOINTS, make_workdir
from rankclip_jax.training import init_from, setup
from rankclip_jax.training.clock import Clock
from rankclip_jax.training.diagnostics import jit_diagnostics, make_diagnostics
from rankclip_jax.training.inputs import batch_keys
from rankclip_jax.training.metrics import MetricsWriter
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.startup_card import devices, start_up_card
from rankclip_jax.training.step import abstract_state, create_state, make_init


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Train, or continue, the run of `config` in `workdir`; return the final metrics of all splits.

    Raises:
      UserError: whatever the user can mend; see `errors`.
    """
    # Everything that can be wrong with the config, the data or the folder comes up before any
    # parameter exists.
    parts = setup.build(config, workdir)
    config = parts.config
    data = {"name": parts.dataset.name, "digest": parts.dataset.digest, "counts": dict(parts.dataset.counts)}
    make_workdir(workdir)
    resuming = check_same_run(workdir, config, data)
    writer = MetricsWriter(
        workdir,
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        process_index=jax.process_index(),
        config=config.to_dict(),
    )
    processes.barrier("config checked")

    # Shapes, then shardings, then arrays: either restored or initialised, straight into shards.
    init = make_init(parts.towers, parts.objective, parts.optimizer, config.optimizer.ema_decay)
    key = jax.random.key(config.seed)
    checkpoints = Checkpoints(
        str(Path(workdir) / CHECKPOINTS), keep=config.checkpoint.keep, best_metric=config.checkpoint.best_metric
    )
    abstract = abstract_state(init, key, parts.mesh)
    restored = checkpoints.restore(abstract) if resuming else None
    start = restored.step if restored else 0
    begins_with = parts.initial if restored is None else None
    beginning = init_from.describe(abstract, begins_with) if begins_with else ""
    if processes.is_main():
        save_run_config(workdir, config, data, devices(parts), parameter_counts(abstract))
        if not resuming:
            setup.save_tokenizer(parts.tokenizer, workdir)
        print(start_up_card(parts, abstract, workdir, start, beginning), flush=True)
    state = restored.state if restored else create_state(init, key, parts.mesh)
    state = init_from.begin(state, begins_with) if begins_with else state

    # A run that had reached its end only evaluates again.
    loop = _Loop(parts, writer, checkpoints, restored)
    try:
        state = loop.run(state) if start < config.duration else state
    except UserError:
        loop.settle()
        raise
    loop.close()

    encoder = make_encoder(parts, state)
    metrics = evaluate_run(encoder, parts.dataset, config.eval, workdir, config.duration)
    if processes.is_main():
        print(f"report: {write_report(workdir)}", flush=True)
    return metrics


class _Loop:
    """Next batch, step, and what is due after it: a log line, an evaluation, a checkpoint."""

    def __init__(self, parts: Setup, writer: MetricsWriter, checkpoints: Checkpoints, restored: Restored | None):
        self.parts, self.config, self.writer, self.checkpoints = parts, parts.config, writer, checkpoints
        self.start = restored.step if restored else 0
        self.writer.truncate_after(self.start)
        self.clock = Clock(
            self.config.duration,
            start_step=self.start,
            state=restored.meta.get("clock") if restored else None,
            show=processes.is_main(),
            wait_hint="raise config.data.num_threads, or choose lighter "
            "augmentation; python -m rankclip_jax.data bench shows which stage limits",
        )
        self.encoder: Encoder | None = None
        self.pending: tuple[int, dict[str, Any]] | None = None

    def run(self, state: dict) -> dict:
        """Train to the end and return the final state; `state` is consumed."""
        config, parts = self.config, self.parts
        step_fn = setup.train_step(parts, state)
        diagnose = self._diagnostics()
        with self._loader(inputs := batch_keys(parts.objective.inputs)) as loader:
            for step in range(self.start + 1, config.duration + 1):
                with self.clock.waiting_for_data():
                    batch = next(loader)
                batch = put_batch({name: batch[name] for name in inputs}, parts.mesh)
                is_logged = self._is_due(step, config.log.every)
                with self.clock.paused():  # the first one compiles
                    measured = diagnose(state, batch) if is_logged else {}  # before the step consumes the state
                state, metrics = step_fn(state, batch)
                self.clock.tick(step, config.batch_size, metrics)
                self._flush()  # the line before this one: fetching it does not stall the step just begun
                if is_logged:
                    self.pending = (step, metrics | measured)
                self._evaluate_and_save(step, state, metrics)
        self._flush()
        return state

    def settle(self) -> None:
        """Let a save in flight end: what stops the run must not cost its last checkpoint.

        Not among several processes, where the others may have stopped elsewhere and would be waited for.
        """
        if not processes.is_multi_process():
            with contextlib.suppress(UserError):
                self.checkpoints.close()

    def close(self) -> None:
        """Everything on disk, bars closed."""
        self.checkpoints.close()
        self.writer.close()
        self.clock.close()

    def _loader(self, inputs: Sequence[str]) -> Loader:
        data = self.config.data
        return Loader(
            self.parts.dataset.train,
            self.parts.tokenizer,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            image_size=self.config.model.image.image_size,
            augment=data.augment,
            text_augment=data.text_augment,
            view_augment=data.view_augment,
            view_text_augment=data.view_text_augment,
            resize=self.parts.towers.resize,
            inputs=inputs,
            start_step=self.start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=data.num_threads,
            prefetch=data.prefetch,
            max_bad_fraction=data.max_bad_fraction,
        )

    def _diagnostics(self) -> Callable[[dict, dict], dict[str, Any]]:
        """(state, batch) -> `diagnostics`, or nothing where they are off."""
        parts, config = self.parts, self.config
        if not config.log.diagnostics:
            return lambda state, batch: {}
        diagnostics = make_diagnostics(
            parts.towers,
            parts.objective,
            parts.mesh,
            config.objective.block_rows,
            config.micro_batches,
            config.seed,
            config.optimizer.freeze,
        )
        return jit_diagnostics(diagnostics, parts.objective, parts.mesh)

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.config.duration or (every > 0 and step % every == 0)

    def _flush(self) -> None:
        """Write the pending log line."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in metrics.items()}
        check_finite(step, {name: value for name, value in values.items() if "/" not in name})  # not of diagnostics
        values["learning_rate"] = float(self.parts.learning_rate(step - 1))
        rates = self.clock.report()
        line = {name if "/" in name else f"train/{name}": value for name, value in (values | rates).items()}
        self.writer.write(step, line)
        self.clock.show({name: values[name] for name in ("loss", *self.parts.objective.terms)}, step)

    def _evaluate_and_save(self, step: int, state: dict, train_metrics: dict[str, Any]) -> None:
        config = self.config
        saving = self._is_due(step, config.checkpoint.every)
        if saving:  # or a diverged state would push the sound ones out
            norm = parameter_norm(state["params"])
            check_finite(step, {"loss": train_metrics["loss"], "norm of the parameters": norm})
        # Which checkpoint is best can only be known if each of them is evaluated.
        evaluating = self._is_due(step, config.eval.every) or (saving and bool(config.checkpoint.best_metric))
        metrics = self._evaluate(step, state) if evaluating else {}
        if saving:
            self._flush()  # a restart cuts the log at the checkpoint: it must be whole up to there
            with self.clock.paused():
                self.checkpoints.save(step, state, {"clock": self.clock.state_dict()}, metrics)

    def _evaluate(self, step: int, state: dict) -> dict[str, float]:
        with self.clock.paused():
            self.encoder = make_encoder(self.parts, state, self.encoder)
            splits, names = self.config.eval.train_splits, self.config.eval.metrics
            metrics, _ = evaluate_splits(self.encoder, self.parts.dataset, splits, names)
            self.writer.write(step, metrics)
        return metrics


def make_encoder(parts: Setup, state: dict, compiled: Encoder | None = None) -> Encoder:
    """An encoder of the model in `state`, of its averages if it has any; `compiled` is used again."""
    weights = Weights.of_state(state)
    encoder = compiled or Encoder(parts.towers, weights, parts.tokenizer, parts.mesh)
    encoder.weights = weights
    return encoder


parameter_norm = jax.jit(optax.tree.norm)


def check_finite(step: int, values: Mapping[str, Any]) -> None:
    """Stop a run that has diverged; what it saved before is kept."""
    for name, value in values.items():
        if not math.isfinite(float(value)):
            raise UserError(
                f"the {name} is {float(value)} at step {step}: the run has diverged. Its earlier checkpoints are kept; "
                "begin another --workdir with a lower config.optimizer.learning_rate or a longer warm-up."
            )


def main(argv: list[str]) -> None:
    del argv
    processes.initialize()  # before any other use of jax
    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", None, "run folder, made if missing", required=True)
    cli.run(main)
