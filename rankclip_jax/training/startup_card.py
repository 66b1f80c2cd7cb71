"""The start-up card: a summary of the run, printed before the first step."""

import math

import jax

from rankclip_jax.data.loader_options import held_bytes
from rankclip_jax.models.counts import parameter_counts, size_of
from rankclip_jax.models.two_towers import dtype_of
from rankclip_jax.training.setup import Setup


def devices(setup: Setup) -> dict[str, object]:
    """The devices of a run, for the start-up card and `config.json`."""
    first = setup.mesh.devices.flat[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": setup.mesh.size,
        "processes": jax.process_count(),
        "mesh": dict(setup.mesh.shape),
    }


def start_up_card(setup: Setup, state, workdir: str, start_step: int, beginning: str = "", peak: str = "") -> str:
    """The start-up card as text, one line per fact.

    Args:
      state: the train state, or its shapes.
      start_step: number of steps already done.
      beginning: what a new run starts from, if not only from random weights.
      peak: see `Utilization.describe`.
    """
    config, found, data = setup.config, devices(setup), setup.dataset
    micro_batches = f", in {config.micro_batches} micro-batches" if config.micro_batches > 1 else ""
    per_epoch = len(data.train) // config.batch_size
    rows = {
        "run": workdir,
        "devices": f"{found['count']} x {found['kind']}, {found['processes']} process(es), mesh {found['mesh']}",
        "peak": peak,
        "data": f"{data.name} {data.digest[:12]}: " + ", ".join(f"{k} {v:,}" for k, v in data.counts.items()),
        "batch": f"{config.batch_size} pairs, {config.batch_size // found['count']} per device{micro_batches}",
        "length": f"{config.duration:,} steps, {per_epoch} per epoch, {config.duration / per_epoch:.1f} epochs",
        "towers": _towers(setup, state),
        "trains": _trained_parameters(setup, state),
        "loader": _loader(setup),
        "text": f"{config.tokenizer.name}, {setup.tokenizer.vocab_size:,} tokens, "
        f"context {setup.tokenizer.context_length}",
        "objective": setup.objective.equation,
        "optimizer": _optimizer(setup),
        "chance": f"the contrastive loss of a random model is ln {config.batch_size} = "
        f"{math.log(config.batch_size):.2f}",
        "state": _beginning(setup, start_step, beginning),
    }
    return "\n".join(f"  {name:<10} {value}" for name, value in rows.items() if value)


def _towers(setup: Setup, state) -> str:
    model = setup.config.model
    counts = {name: f"{count:,}" for name, count in parameter_counts(state).items()}
    dtypes = dict.fromkeys(dtype_of(model, side).__name__ for side in ("image", "text"))
    return (
        f"{model.name}: {model.image.tower} {counts['image']} + {model.text.tower} {counts['text']} parameters, "
        f"{model.embed_dim} dimensions, {' + '.join(dtypes)}"
    )


def _trained_parameters(setup: Setup, state) -> str:
    """The number of trained parameters, and the pattern that freezes the others."""
    total, frozen, freeze = size_of(state["params"]), setup.step_options.frozen, setup.config.optimizer.freeze
    if frozen is None:
        return f"{total:,} of {total:,} parameters"
    leaves = zip(jax.tree.leaves(state["params"]), jax.tree.leaves(frozen), strict=True)
    held = sum(math.prod(leaf.shape) for leaf, is_frozen in leaves if is_frozen)
    return f"{total - held:,} of {total:,} parameters, all but {freeze!r}"


def _loader(setup: Setup) -> str:
    options = setup.loader_options
    held = held_bytes(options, setup.tokenizer.context_length) / 2**20
    return f"{options.num_threads} threads, {options.prefetch} batches ahead, at most {held:,.0f} MiB of examples"


def _optimizer(setup: Setup) -> str:
    config = setup.config.optimizer
    average = f"; evaluates an average with decay {config.ema_decay:g}" if config.ema_decay else ""
    return (
        f"AdamW, learning rate {config.learning_rate:g} after {config.warmup} steps, {config.schedule}, "
        f"weight decay {config.weight_decay:g}{average}"
    )


def _beginning(setup: Setup, start_step: int, beginning: str) -> str:
    if start_step == setup.config.duration:
        return "finished: nothing to train, only evaluated again"
    return f"resumed from step {start_step:,}" if start_step else f"new, seed {setup.config.seed}{beginning}"
