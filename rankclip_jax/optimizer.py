"""AdamW as CLIP uses it: decay on matrices and embeddings only, optional clipping by global norm."""

import jax
import optax
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.schedules import SCHEDULES, Schedule


def learning_rate_schedule(config: ConfigDict, total_steps: int) -> Schedule:
    """Learning rate as a function of the step; `config.warmup` is in steps, as `config.resolve` left it."""
    schedule = lookup(SCHEDULES, config.schedule, "config.optimizer.schedule")
    return schedule(config.learning_rate, config.warmup, total_steps)


def check_ema_decay(decay: float) -> None:
    """Refuse a decay with which the average of the weights would stand still or grow without end."""
    if not 0.0 <= decay < 1.0:
        raise UserError(f"config.optimizer.ema_decay={decay} must be at least 0 (no average) and less than 1.")


def decay_mask(params):
    """True where weight decay applies: not to biases, norms' scales, or learned scalars.

    CLIP's rule by name, with one deviation: the released code's rule misses the norms on a ResNet's
    shortcuts and decays them.
    """

    def decays(path, _) -> bool:
        keys = [key.key for key in path]
        return keys[0] != "scalars" and not keys[-1].endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: ConfigDict, learning_rate: Schedule) -> optax.GradientTransformation:
    """AdamW; `config.clip_norm` = 0 leaves gradients unclipped, as CLIP, CyCLIP and RankCLIP do."""
    adamw = optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
