"""Losses of the first 50 steps of a small run, to notice when training has become another one.

    python -m tests.golden.make          writes tests/golden/losses_mu_*.json anew

Do that only for a change that is meant to change training, and say in its commit which and why. Everything
that a loss depends on is written out below, so that no new default of a recipe changes these files.
"""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rankclip_jax.config import base
from rankclip_jax.data.loader import Loader
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.step import create_state, jit_train_step, make_init, make_train_step

STEPS = 50
OBJECTIVES = ("clip", "rankclip")
RECIPE = {
    "seed": 0,
    "batch_size": 32,
    "duration": f"{STEPS} steps",
    "data.train_limit": 32,  # one batch, that 50 steps can learn by heart: the loss must fall
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
    """Loss, terms and learned temperature of every step."""
    parts = setup.build(make_config(objective))
    config, mesh = parts.config, parts.mesh
    init = make_init(parts.towers, parts.objective, parts.optimizer)
    state = create_state(init, jax.random.key(config.seed), mesh)
    step = jit_train_step(make_train_step(parts.towers, parts.objective, parts.optimizer, mesh), state, mesh)
    sizes = {"batch_size": config.batch_size, "image_size": config.model.image.image_size}
    found = []
    with Loader(parts.dataset.train, parts.tokenizer, seed=config.seed, augment=config.data.augment, **sizes) as loader:
        for _ in range(STEPS):
            batch = next(loader)
            state, metrics = step(state, put_batch({name: batch[name] for name in ("images", "tokens")}, mesh))
            found.append(metrics)
    kept = ("loss", *parts.objective.terms, "temperature_scale")
    return {name: [float(metrics[name]) for metrics in found] for name in kept}


if __name__ == "__main__":
    for name in OBJECTIVES:
        path(name).write_text(json.dumps(losses(name), indent=0) + "\n")
