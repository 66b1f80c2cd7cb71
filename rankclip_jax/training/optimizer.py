"""AdamW as CLIP uses it: decay on matrices and embeddings only, optional clipping by global norm.

Parameters may be frozen (LiT, Zhai et al. 2022, arXiv 2111.07991): they keep their bits, and cost no moments. A tower
all of whose parameters are frozen is locked: it computes what it would in evaluation, so that a ResNet's running
statistics stay too. In a tower frozen in part norms go on as in training, whatever becomes of their parameters.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.schedules import SCHEDULES, Schedule
from rankclip_jax.trees import leaves_with_path, name_of, path_of


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
        keys = path_of(path)
        return keys[0] != "scalars" and not keys[-1].endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


def frozen_mask(params: Any, pattern: str) -> Any:
    """True for each leaf of `params` whose whole path, such as "towers/image/ln_post/scale", the pattern matches.

    Args:
      params: {"towers", "scalars"}, of arrays or shapes.
      pattern: a regular expression, `config.optimizer.freeze`; "" freezes nothing.

    Raises:
      UserError: no regular expression, one that matches nothing, or one that leaves nothing to train.
    """
    compiled, key = _compiled(pattern), f"config.optimizer.freeze={pattern!r}"
    mask = jax.tree_util.tree_map_with_path(lambda path, _: bool(compiled.fullmatch(name_of(path_of(path)))), params)
    frozen = jax.tree.leaves(mask)
    if pattern and not any(frozen):
        names = [name_of(path) for path, _ in leaves_with_path(params)]
        some = ", ".join(names[:: max(1, len(names) // 5)])
        raise UserError(
            f"{key} matches no parameter; it must match a whole path, such as 'towers/image/.*'. Paths are {some}, ..."
        )
    if all(frozen):
        raise UserError(f"{key} matches every parameter: nothing would train; leave some out.")
    return mask


def locked_parts(frozen: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a mask of the towers' parameters, the towers and heads that are frozen as a whole."""
    return tuple(part for part, mask in frozen.items() if all(jax.tree.leaves(mask)))


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"config.optimizer.freeze={pattern!r} is no regular expression ({error}); write one such as "
            "'towers/image/.*'."
        ) from None


def make_optimizer(config: ConfigDict, learning_rate: Schedule) -> optax.GradientTransformation:
    """AdamW; `config.clip_norm` = 0 leaves gradients unclipped, as CLIP, CyCLIP and RankCLIP do.

    Of what `config.freeze` matches (`frozen_mask`) gradients are ignored, also in that norm.

    Raises:
      UserError: `config.freeze` is no regular expression; `init` of what is returned raises those of `frozen_mask`.
    """
    adamw = optax.adamw(
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    trained = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
    freeze = config.freeze
    if not freeze:
        return trained
    _compiled(freeze)

    def labels(params):
        return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", frozen_mask(params, freeze))

    return optax.multi_transform({"trained": trained, "frozen": optax.stateless(_still)}, labels)


def _still(updates, params):
    """Updates that leave every bit: -0 added to a number is that number, +0 added to -0 is not."""
    del params
    return jax.tree.map(lambda update: jnp.full_like(update, -0.0), updates)
