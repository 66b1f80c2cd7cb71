"""From a config to the parts of a run: data, tokenizer, towers, objective, optimizer, mesh.

Training and evaluation build the same parts from the same config. The whole config is parsed and checked here, once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from rankclip_jax.checkpoints.run_copy import newest_copy
from rankclip_jax.config.changes import comparable
from rankclip_jax.config.record import code_digest, versions
from rankclip_jax.config.resolve import check_batch, resolve, with_value
from rankclip_jax.data.in_parallel import READERS, in_parallel
from rankclip_jax.data.loader_options import LoaderOptions, loader_options
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.text.tokenizer import TOKENIZERS, Tokenizer
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.evaluate_dataset import check_names
from rankclip_jax.files.atomic import replaced_folder
from rankclip_jax.inference.model import Model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import Objective, RunInfo, build_objective
from rankclip_jax.parallel import accelerators, processes
from rankclip_jax.parallel.agreement import check_same
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run_folder import TOKENIZER
from rankclip_jax.schedules import Schedule
from rankclip_jax.training import guard, skipping
from rankclip_jax.training.diagnostics import jit_diagnostics, make_diagnostics
from rankclip_jax.training.gradcache import check_micro_batches
from rankclip_jax.training.init_from import check_vocabulary, read_initial
from rankclip_jax.training.inputs import batch_keys, captions_for_vocabulary, check_inputs, embeds_of
from rankclip_jax.training.optimizer import (
    check_ema_decay,
    frozen_mask,
    learning_rate_schedule,
    locked_parts,
    make_optimizer,
)
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import jit_train_step, make_init_model, make_train_step

# A vocabulary is trained on the captions of at most this many records.
TOKENIZER_RECORDS = 100_000
FROM_WEIGHTS = "from_weights"


class StepParts(NamedTuple):
    """The parts of a run that its train step is made of, which need no data."""

    config: FrozenConfigDict  # resolved: checked, every duration in steps, `model.embeds` chosen
    mesh: Mesh
    towers: nn.Module
    objective: Objective
    learning_rate: Schedule
    optimizer: optax.GradientTransformation
    step_options: StepOptions


class Setup(NamedTuple):
    """The parts of a run."""

    config: FrozenConfigDict  # resolved: checked, every duration in steps, `model.embeds` chosen
    mesh: Mesh
    dataset: Dataset
    tokenizer: Tokenizer
    towers: nn.Module
    objective: Objective
    learning_rate: Schedule
    optimizer: optax.GradientTransformation
    loader_options: LoaderOptions
    step_options: StepOptions
    initial: Model | None  # weights to begin with, from `config.init_from`


def build(config: ConfigDict, workdir: str | None = None) -> Setup:
    """Build every part. The tokenizer comes from `workdir` if it has one; a new tokenizer is not saved yet.

    Raises:
      UserError: anything in the config, the data or the machine that does not fit together.
    """
    check_same("version", versions() | {"code": code_digest()})
    check_same("config", comparable(config))
    accelerators.check(config.allow_cpu)
    mesh = make_mesh(fsdp=config.mesh.fsdp, replica=config.mesh.replica)
    check_batch(config.batch_size, device_count=mesh.size, process_count=jax.process_count())
    dataset = _read_data(config)
    config, objective = resolve_objective(config, dataset.train)
    check_step(config, mesh)
    check_names(config, dataset)
    process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    loader = loader_options(config, batch_keys(objective.inputs), **process)
    initial = read_initial(config, workdir)
    tokenizer = build_tokenizer(config, dataset.train, workdir, objective.inputs, initial)
    check_same("tokenizer", tokenizer.vocabulary)
    step = step_parts(config, objective, mesh, tokenizer.vocab_size, tokenizer.eot_id)
    return Setup(**step._asdict(), dataset=dataset, tokenizer=tokenizer, loader_options=loader, initial=initial)


def step_parts(config: FrozenConfigDict, objective: Objective, mesh: Mesh, vocab_size: int, eot_id: int) -> StepParts:
    """Build what the train step is made of; `config` is resolved. `build_towers` describes the other arguments."""
    towers = build_towers(config.model, vocab_size, eot_id, mesh.size, mesh.devices.flat[0])
    frozen = _frozen_mask(config, towers, objective)
    learning_rate = learning_rate_schedule(config.optimizer, config.duration)
    return StepParts(
        config=config,
        mesh=mesh,
        towers=towers,
        objective=objective,
        learning_rate=learning_rate,
        optimizer=make_optimizer(config.optimizer, learning_rate, frozen),
        step_options=StepOptions(
            block_rows=config.objective.block_rows,
            micro_batches=config.micro_batches,
            seed=config.seed,
            frozen=frozen,
            ema_decay=config.optimizer.ema_decay,
            skip_median_factor=config.skip.median_factor,
        ),
    )


def _read_data(config: ConfigDict) -> Dataset:
    """Open the data, and check that there are training pairs, and the same data in every process."""
    dataset = lookup(SOURCES, config.data.name, "data source")(config.data)
    if not len(dataset.train):
        raise UserError("there are no training pairs: set config.data.train to their location.")
    # Each machine may read its own disks. With different data, each process would train on wrong rows.
    check_same("data", dataset.digest)
    return dataset


def resolve_objective(config: ConfigDict, train: RecordSource) -> tuple[FrozenConfigDict, Objective]:
    """The resolved config and its objective, which determines `model.embeds` if the config leaves it empty."""
    config = resolve(config, examples=len(train))
    run = RunInfo(config.duration, len(train) // config.batch_size, config.seed)
    objective = build_objective(config.objective, run)
    check_inputs(objective, train, config)
    return with_value(config, "model.embeds", embeds_of(config.model, objective)), objective


def check_step(config: ConfigDict, mesh: Mesh) -> None:
    """Reject invalid options of the train step now, before parameters and a run folder exist."""
    check_micro_batches(config.micro_batches, config.batch_size // mesh.size)
    check_ema_decay(config.optimizer.ema_decay)
    skipping.check_options(config.skip.stop_after, config.skip.median_factor)


def _frozen_mask(config: ConfigDict, towers: nn.Module, objective: Objective) -> dict | None:
    """The mask of `config.optimizer.freeze`, from the shapes of the parameters."""
    if not config.optimizer.freeze:
        return None
    shapes, _ = jax.eval_shape(make_init_model(towers, objective), jax.random.key(0))
    frozen = frozen_mask(shapes, config.optimizer.freeze)
    if "image" in locked_parts(frozen["towers"]) and config.model.image.get("patch_dropout", 0):
        raise UserError(
            f"config.optimizer.freeze={config.optimizer.freeze!r} locks the image tower, which then drops no patches: "
            "set config.model.image.patch_dropout=0."
        )
    return frozen


def train_step(parts: Setup | StepParts, state_like: dict) -> Callable:
    """The compiled update of a run, (state, batch) -> (state, metrics); `state_like` has the state's shapes."""
    update = make_train_step(parts.towers, parts.objective, parts.optimizer, parts.mesh, parts.step_options)
    return jit_train_step(guard.agreeing(update), state_like, parts.mesh)


def diagnostics(parts: Setup) -> Callable[[dict, dict], dict[str, jax.Array]]:
    """The compiled diagnostics of a run, (state, batch) -> metrics; an empty dict if they are disabled."""
    if not parts.config.log.diagnostics:
        return lambda state, batch: {}
    found = make_diagnostics(parts.towers, parts.objective, parts.mesh, parts.step_options)
    return jit_diagnostics(found, parts.objective, parts.mesh)


def build_tokenizer(
    config: ConfigDict,
    train: RecordSource,
    workdir: str | None,
    inputs: Sequence[str] = (),
    initial: Model | None = None,
) -> Tokenizer:
    """The tokenizer in the run's newest checkpoint, or a new one of the kind in `config.tokenizer`.

    Args:
      config: the whole config.
      train: source of the captions that train a vocabulary.
      workdir: run folder, if there is one.
      inputs: the objective's inputs, which determine whether second captions are read.
      initial: weights to begin with. "from_weights" uses their tokenizer; any other must have the same vocabulary.

    Raises:
      UserError: an unknown or invalid tokenizer, or another vocabulary than that of `initial`.
    """
    copy = newest_copy(workdir) if workdir else None
    if copy is not None:
        return copy.tokenizer
    make = lookup(TOKENIZERS | {FROM_WEIGHTS: None}, config.tokenizer.name, "tokenizer")
    if make is None:
        if initial is None:
            raise UserError(f"config.tokenizer.name={FROM_WEIGHTS!r} needs config.init_from: set it to the weights.")
        return initial.tokenizer
    records = range(min(len(train), TOKENIZER_RECORDS))
    chunks = in_parallel(
        lambda some: [caption for i in some for caption in captions_for_vocabulary(train, i, inputs)],
        records,
        READERS,
        "captions of the vocabulary",
    )
    captions = (caption for chunk in chunks for caption in chunk)  # read if the tokenizer asks for them
    tokenizer = make(captions, config.tokenizer.vocab_size, config.model.text.context_length)
    if initial is not None:
        check_vocabulary(initial, tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, workdir: str) -> None:
    """Write the tokenizer into the run folder; only the main process writes."""
    if processes.is_main():
        with replaced_folder(Path(workdir) / TOKENIZER) as folder:
            tokenizer.save(folder)
