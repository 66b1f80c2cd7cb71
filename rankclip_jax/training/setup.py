"""From a config to the parts of a run: data, tokenizer, towers, objective, optimizer, mesh.

Training and evaluation build the same parts from the same config here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.config.resolve import check_batch, resolve
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import check_options
from rankclip_jax.data.records import Dataset, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.text.augment import make_text_augment
from rankclip_jax.data.text.tokenizer import TOKENIZERS, Tokenizer
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.evaluate_dataset import check_names
from rankclip_jax.files import replaced_folder
from rankclip_jax.inference.model import Model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import Objective, RunInfo, build_objective
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run_folder import TOKENIZER, has_progress
from rankclip_jax.schedules import Schedule
from rankclip_jax.training.gradcache import check_micro_batches
from rankclip_jax.training.init_from import check_vocabulary, read_initial
from rankclip_jax.training.inputs import captions_for_vocabulary, check_inputs, embeds_of
from rankclip_jax.training.optimizer import (
    check_ema_decay,
    frozen_mask,
    learning_rate_schedule,
    locked_parts,
    make_optimizer,
)
from rankclip_jax.training.step import jit_train_step, make_init, make_train_step

# A trained vocabulary sees at most this many records' captions.
TOKENIZER_RECORDS = 100_000
FROM_WEIGHTS = "from_weights"


class Setup(NamedTuple):
    """The parts of a run; `config` is resolved: checked, every duration in steps, no choice left to the objective."""

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    tokenizer: Tokenizer
    towers: nn.Module
    objective: Objective
    learning_rate: Schedule
    optimizer: optax.GradientTransformation
    initial: Model | None  # weights to begin with, of `config.init_from`


def build(config: ConfigDict, workdir: str | None = None) -> Setup:
    """Build every part. A tokenizer already in `workdir` is used, a new one is not yet saved.

    Raises:
      UserError: anything in the config, the data or the machine that does not fit together.
    """
    mesh = make_mesh(fsdp=config.mesh.fsdp)
    check_batch(config.batch_size, device_count=mesh.size, process_count=jax.process_count())
    dataset = lookup(SOURCES, config.data.name, "data source")(config.data)
    if not len(dataset.train):
        raise UserError("there is nothing to train on: say in config.data.train where the pairs are.")
    # Each machine may read disks of its own; from different data no process would train on what it should.
    processes.check_same("data", dataset.digest)
    config = resolve(config, examples=len(dataset.train), device_count=mesh.size, process_count=jax.process_count())
    check(config, dataset, mesh)
    length = RunInfo(config.duration, len(dataset.train) // config.batch_size, config.seed)
    objective = build_objective(config.objective, length)
    check_inputs(objective, dataset.train, config)
    config.model.embeds = embeds_of(config.model, objective)
    initial = read_initial(config, workdir)
    tokenizer = build_tokenizer(config, dataset.train, workdir, objective.inputs, initial)
    learning_rate = learning_rate_schedule(config.optimizer, config.duration)
    optimizer = make_optimizer(config.optimizer, learning_rate)
    towers = build_towers(config.model, tokenizer.vocab_size, tokenizer.eot_id, mesh.size)
    if config.optimizer.freeze:
        _check_freeze(config, make_init(towers, objective, optimizer))
    return Setup(
        config=config,
        mesh=mesh,
        dataset=dataset,
        tokenizer=tokenizer,
        towers=towers,
        objective=objective,
        learning_rate=learning_rate,
        optimizer=optimizer,
        initial=initial,
    )


def train_step(parts: Setup, state_like: dict) -> Callable:
    """The compiled update of a run, (state, batch) -> (state, metrics); `state_like` gives the state's shapes."""
    config = parts.config
    update = make_train_step(
        parts.towers,
        parts.objective,
        parts.optimizer,
        parts.mesh,
        config.objective.block_rows,
        config.micro_batches,
        config.seed,
        config.optimizer.ema_decay,
        config.optimizer.freeze,
    )
    return jit_train_step(update, state_like, parts.mesh)


def check(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> None:
    """Refuse now what would be refused later, when parameters exist and a folder is begun."""
    data, batch_size = config.data, config.batch_size
    check_micro_batches(config.micro_batches, batch_size // mesh.size)
    check_ema_decay(config.optimizer.ema_decay)
    check_options(len(dataset.train), batch_size, jax.process_count(), config.seed, data.num_threads)
    size = max(1, config.model.image.image_size)  # one that is none is refused with the towers
    for pipeline in (data.augment, data.view_augment):
        make_augment(pipeline, size, config.model.image.get("resize", "crop"))
    for pipeline in (data.text_augment, data.view_text_augment):
        make_text_augment(pipeline)
    check_names(config, dataset)


def _check_freeze(config: ConfigDict, init: Callable) -> None:
    """Refuse a pattern that does not fit the parameters, of which shapes are enough to know."""
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    locked = locked_parts(frozen_mask(params, config.optimizer.freeze)["towers"])
    if "image" in locked and config.model.image.get("patch_dropout", 0):
        raise UserError(
            f"config.optimizer.freeze={config.optimizer.freeze!r} locks the image tower, which then drops no patches: "
            "set config.model.image.patch_dropout=0."
        )


def build_tokenizer(
    config: ConfigDict,
    train: RecordSource,
    workdir: str | None,
    inputs: Sequence[str] = (),
    initial: Model | None = None,
) -> Tokenizer:
    """The run's saved tokenizer, or a new one of the kind that `config.tokenizer` names, for what is read.

    What is in a folder without progress may be of another config, and is made anew. "from_weights" is the tokenizer
    of the weights to begin with; any other must have the same vocabulary as those.
    """
    if workdir and has_progress(workdir):
        return Tokenizer.load(Path(workdir) / TOKENIZER)
    make = lookup(TOKENIZERS | {FROM_WEIGHTS: None}, config.tokenizer.name, "tokenizer")
    if make is None:
        return _of_weights(initial)
    captions = (
        caption
        for i in range(min(len(train), TOKENIZER_RECORDS))
        for caption in captions_for_vocabulary(train, i, inputs)
    )
    tokenizer = make(captions, config.tokenizer.vocab_size, config.model.text.context_length)
    if initial is not None:
        check_vocabulary(initial, tokenizer)
    return tokenizer


def _of_weights(initial: Model | None) -> Tokenizer:
    if initial is None:
        raise UserError(f"config.tokenizer.name={FROM_WEIGHTS!r} needs config.init_from: name the weights there.")
    return initial.tokenizer


def save_tokenizer(tokenizer: Tokenizer, workdir: str) -> None:
    """Keep the tokenizer with the run; the main process writes it."""
    if not processes.is_main():
        return
    with replaced_folder(Path(workdir) / TOKENIZER) as folder:
        tokenizer.save(folder)
