"""The start-up card: what is about to run, before the first step is paid for."""

import math

import jax
import numpy as np

from rankclip_jax.data.loader import held_bytes
from rankclip_jax.models.counts import parameter_counts, size_of
from rankclip_jax.models.two_towers import dtype_of
from rankclip_jax.training.inputs import batch_keys
from rankclip_jax.training.optimizer import frozen_mask
from rankclip_jax.training.setup import Setup


def _loader(setup: Setup) -> str:
    config, data = setup.config, setup.config.data
    local_batch = config.batch_size // jax.process_count()
    inputs, side = batch_keys(setup.objective.inputs), config.model.image.image_size
    held = held_bytes(inputs, local_batch, side, setup.tokenizer.context_length, data.num_threads, data.prefetch)
    return f"{data.num_threads} threads, {data.prefetch} batches ahead, at most {held / 2**20:,.0f} MiB of examples"


def trained_parameters(state, freeze: str) -> str:
    """How many parameters train, and which pattern keeps the others from it."""
    everything = size_of(state["params"])
    frozen = jax.tree.leaves(frozen_mask(state["params"], freeze))
    still = sum(
        math.prod(leaf.shape) for leaf, held in zip(jax.tree.leaves(state["params"]), frozen, strict=True) if held
    )
    return f"{everything - still:,} of {everything:,} parameters" + (f", all but {freeze!r}" if freeze else "")


def devices(setup: Setup) -> dict[str, object]:
    """What the run computes on, for the card and `config.json`."""
    first = setup.mesh.devices.flat[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": setup.mesh.size,
        "processes": jax.process_count(),
        "mesh": dict(setup.mesh.shape),
    }


def start_up_card(setup: Setup, state, workdir: str, start_step: int, beginning: str = "") -> str:
    """The card as text, a line per fact; `beginning` says what a new run starts from, if not from nothing."""
    config, found = setup.config, devices(setup)
    counts = {name: f"{count:,}" for name, count in parameter_counts(state).items()}
    model = config.model
    dtypes = dict.fromkeys(dtype_of(model, side).__name__ for side in ("image", "text"))
    began = f"resumed from step {start_step:,}" if start_step else f"new, seed {config.seed}{beginning}"
    if start_step == config.duration:
        began = "at its end: nothing to train, only evaluated again"
    per_epoch = len(setup.dataset.train) // config.batch_size
    rows = {
        "run": workdir,
        "devices": f"{found['count']} x {found['kind']}, {found['processes']} process(es), mesh {found['mesh']}",
        "data": f"{setup.dataset.name} {setup.dataset.digest[:12]}: "
        + ", ".join(f"{name} {count:,}" for name, count in setup.dataset.counts.items()),
        "batch": f"{config.batch_size} pairs, {config.batch_size // found['count']} per device"
        + (f", in {config.micro_batches} micro-batches" if config.micro_batches > 1 else ""),
        "length": f"{config.duration:,} steps, {per_epoch} per epoch, {config.duration / per_epoch:.1f} epochs",
        "towers": f"{model.name}: {model.image.tower} {counts['image']} + {model.text.tower} {counts['text']} "
        f"parameters, {model.embed_dim} dimensions, {' + '.join(dtypes)}",
        "trains": trained_parameters(state, config.optimizer.freeze),
        "loader": _loader(setup),
        "text": f"{config.tokenizer.name}, {setup.tokenizer.vocab_size:,} tokens, "
        f"context {setup.tokenizer.context_length}",
        "objective": setup.objective.equation,
        "optimizer": f"AdamW, learning rate {config.optimizer.learning_rate:g} after {config.optimizer.warmup} "
        f"steps, {config.optimizer.schedule}, weight decay {config.optimizer.weight_decay:g}"
        + (f"; evaluates an average with decay {config.optimizer.ema_decay:g}" if config.optimizer.ema_decay else ""),
        "chance": f"the contrastive loss of a random model is ln {config.batch_size} = {np.log(config.batch_size):.2f}",
        "state": began,
    }
    return "\n".join(f"  {name:<10} {value}" for name, value in rows.items())
