"""Losses of the first 50 steps of a small run, to detect unintended changes of training.

    python -m tests.golden.make          writes tests/golden/losses_mu_*.json again

Do this only for a change that is meant to change training, and give the reason in its commit message. Everything that
the losses depend on is written out below, so that a new default of a recipe does not change these files.
"""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rankclip_jax.config import base
from rankclip_jax.data.loader import Loader
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.step import create_state, make_init

STEPS = 50
OBJECTIVES = ("clip", "rankclip")
RECIPE = {
    "seed": 0,
    "batch_size": 32,
    "duration": f"{STEPS} steps",
    "data.train_limit": 32,  # one batch, which 50 steps can memorise: the loss must fall
    "data.augment": "none",
    "tokenizer.name": "bpe",
    "tokenizer.vocab_size": 1024,
    "model.embed_dim": 64,
    "model.image.layers": 1,
    "model.text.layers": 1,
    "objective.arithmetic": "exact",
    "objective.ramp": "step",
    "optimizer.learning_rate": 3e-3,
    "optimizer.schedule": "cosine",
    "optimizer.warmup": "5 steps",
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_norm": 0.0,
}


def path(objective: str) -> Path:
    return Path(__file__).parent / f"losses_mu_{objective}.json"


def make_config(objective: str) -> ConfigDict:
    config = base.get_config("mu")
    config.update_from_flattened_dict(RECIPE | {"objective.name": objective})
    return config


def losses(objective: str) -> dict[str, list[float]]:
    """Loss, terms and learned temperature scale of every step."""
    parts = setup.build(make_config(objective))
    init = make_init(parts.towers, parts.objective, parts.optimizer)
    state = create_state(init, jax.random.key(parts.config.seed), parts.mesh)
    step = setup.train_step(parts, state)
    found = []
    with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options) as loader:
        for _ in range(STEPS):
            state, metrics = step(state, put_batch(next(loader), parts.mesh))
            found.append(metrics)
    kept = ("loss", *parts.objective.terms, "temperature_scale")
    return {name: [float(metrics[name]) for metrics in found] for name in kept}


if __name__ == "__main__":
    for name in OBJECTIVES:
        path(name).write_text(json.dumps(losses(name), indent=0) + "\n")
