"""Train a two-tower model, from config to report.

    python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/emoji [--config.KEY=VALUE ...]

After an interruption, the same command continues from the newest intact checkpoint and ends with the same bits. The
flag --resume_from continues a run with another config. A run folder holds ``config.json``, ``metrics.jsonl``,
``tensorboard/``, ``checkpoints/``, ``tokenizer/``, ``eval.json``, ``embeddings.npz`` and ``report.html``.
"""

import contextlib
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli, compilation_cache
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.run_copy import copy_meta
from rankclip_jax.config.record import run_record, write_record
from rankclip_jax.errors import UserError
from rankclip_jax.evals.evaluate_dataset import evaluate_run
from rankclip_jax.files import lock
from rankclip_jax.models.counts import parameter_counts
from rankclip_jax.parallel import peers, processes
from rankclip_jax.parallel.agreement import check_same
from rankclip_jax.report import write_report
from rankclip_jax.run_folder import CHECKPOINTS, checkpoint_steps, has_progress, make_workdir
from rankclip_jax.terminal.redact import redacted_values
from rankclip_jax.terminal.show import show
from rankclip_jax.training import guard as phases
from rankclip_jax.training import init_from, resume, setup
from rankclip_jax.training.guard import Guard
from rankclip_jax.training.loop import Loop, make_encoder
from rankclip_jax.training.metrics import MetricsWriter
from rankclip_jax.training.setup import Setup
from rankclip_jax.training.startup_card import devices, start_up_card
from rankclip_jax.training.step import abstract_state, create_state, make_init
from rankclip_jax.training.utilization import utilization


def train(
    config: ConfigDict, workdir: str, resume_from: str | None = None, guard: Guard | None = None
) -> dict[str, float]:
    """Train, or continue, the run of `config` in `workdir`; return the final metrics of all splits.

    With `resume_from`, "latest" or a step, a run of another config is changed and continues there: see `resume`.
    `guard` follows what the run does; without it, nothing asks the run to stop.

    Raises:
      UserError: a mistake in the config, the data or the folder, a full disk, or a run that diverges.
      Stopped: the guard was asked to stop the run, and a checkpoint is saved.
    """
    # Setup. All mistakes in the config, the data or the folder are found here, before any parameter exists.
    guard = guard or Guard()
    parts = setup.build(config, workdir)
    make_workdir(workdir)
    with _only_run(workdir):
        processes.barrier("run folder locked")
        steps = checkpoint_steps(Path(workdir) / CHECKPOINTS)
        check_same("run folder", {"lock": lock.owner(workdir), "checkpoints": steps})
        return _train(parts, workdir, resume_from, guard)


def _only_run(workdir: str) -> contextlib.AbstractContextManager:
    """The lock of the run folder, held by the main process."""
    advice = "wait for that run, stop it, or use another --workdir"
    return lock.held(workdir, advice) if processes.is_main() else contextlib.nullcontext()


def _train(parts: Setup, workdir: str, resume_from: str | None, guard: Guard) -> dict[str, float]:
    config, dataset, folder = parts.config, parts.dataset, str(Path(workdir) / CHECKPOINTS)
    data = {"name": dataset.name, "digest": dataset.digest, "counts": dict(dataset.counts)}
    resuming = has_progress(workdir)
    plan = resume.plan(workdir, config, data, resume_from, resuming)
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
    copy = copy_meta(record, parts.tokenizer)
    loop = Loop(parts, workdir, writer, checkpoints, restored, copy, guard, usage)
    try:
        state = loop.run(state) if start < config.duration else state
    except (UserError, OSError):
        loop.finish_saving()
        raise
    loop.close()

    # Evaluation and report.
    guard.enter(phases.EVALUATE, config.duration)
    encoder = make_encoder(parts, state, loop.encoder)
    metrics = evaluate_run(encoder, dataset, config.eval, workdir, config.duration, loop.evaluated)
    guard.enter(phases.REPORT, config.duration)
    if processes.is_main():
        show(f"report: {write_report(workdir)}")
    processes.barrier("report written", processes.LONG_SECONDS)  # the others' exit would end this process
    return metrics


def main(argv: list[str]) -> None:
    del argv
    start(CONFIG.value, WORKDIR.value, RESUME_FROM.value)


def start(config: ConfigDict, workdir: str, resume_from: str | None = None) -> None:
    """Take over the signals, connect the processes, and `train`."""
    guard = Guard(config.grace_seconds, config.stuck_seconds)
    with guard.watching():
        processes.initialize(config.processes)  # before any other use of jax
        peers.watch(lambda: str(guard.mark))
        if config.compilation_cache:
            compilation_cache.enable()
        train(config, workdir, resume_from, guard)


if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", None, "run folder; created if missing", required=True)
    RESUME_FROM = flags.DEFINE_string(
        "resume_from", None, '"latest" or the step of a checkpoint: continue a run there although the config differs'
    )
    cli.run(main)
