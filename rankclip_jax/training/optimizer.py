"""The optimizer: an update rule, AdamW by default as in CLIP, with weight decay on matrices and embeddings only.

Parameters may be frozen (LiT, Zhai et al. 2022, arXiv 2111.07991): none of their bits changes, and the optimizer has no
moments for them. A tower whose parameters are all frozen is locked: it runs as in evaluation, and a ResNet's running
statistics do not change either. In a partly frozen tower, batch norm still uses and updates batch statistics.
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
from rankclip_jax.training.update_rules import UPDATE_RULES
from rankclip_jax.trees import leaves_with_path, name_of, path_of

MOMENTS = ("float32", "bfloat16")


def learning_rate_schedule(config: ConfigDict, total_steps: int) -> Schedule:
    """Learning rate as a function of the step; `config` is the resolved `config.optimizer`."""
    schedule = lookup(SCHEDULES, config.schedule, "config.optimizer.schedule")
    return schedule(config.learning_rate, config.warmup, total_steps)


def check_ema_decay(decay: float) -> None:
    """Reject a decay with which the moving average of the weights would be constant or diverge."""
    if not 0.0 <= decay < 1.0:
        raise UserError(f"config.optimizer.ema_decay={decay} must be at least 0 (no average) and less than 1.")


def decay_mask(params):
    """Tree of bools, False (no weight decay) for biases, scales of norms and learned scalars.

    CLIP's rule by name, with one difference: the released code also decays the norms on a ResNet's shortcuts, which its
    rule misses.
    """

    def decays(path, _) -> bool:
        keys = path_of(path)
        return keys[0] != "scalars" and not keys[-1].endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


def frozen_mask(params: Any, pattern: str) -> Any:
    """Tree of bools, True where `pattern` matches the whole path, such as "towers/image/ln_post/scale".

    Args:
      params: {"towers", "scalars"}, of arrays or shapes; the mask has the same structure.
      pattern: a regular expression, `config.optimizer.freeze`. "" freezes nothing and returns None.

    Raises:
      UserError: an invalid regular expression, or one that matches no parameter or all of them.
    """
    if not pattern:
        return None
    compiled, key = _compiled(pattern), f"config.optimizer.freeze={pattern!r}"
    mask = jax.tree_util.tree_map_with_path(lambda path, _: bool(compiled.fullmatch(name_of(path_of(path)))), params)
    frozen = jax.tree.leaves(mask)
    if not any(frozen):
        names = [name_of(path) for path, _ in leaves_with_path(params)]
        some = ", ".join(names[:: max(1, len(names) // 5)])
        raise UserError(
            f"{key} matches no parameter; it must match a whole path, such as 'towers/image/.*'. Paths are {some}, ..."
        )
    if all(frozen):
        raise UserError(f"{key} matches every parameter: nothing would train; leave some out.")
    return mask


def locked_parts(frozen: Mapping[str, Any]) -> tuple[str, ...]:
    """Towers and heads that are frozen as a whole; `frozen` is the mask of the towers' parameters."""
    return tuple(part for part, mask in frozen.items() if all(jax.tree.leaves(mask)))


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"config.optimizer.freeze={pattern!r} is not a regular expression ({error}); write one such as "
            "'towers/image/.*'."
        ) from None


def make_optimizer(config: ConfigDict, learning_rate: Schedule, frozen: Any = None) -> optax.GradientTransformation:
    """The update rule `config.name` for the parameters that are trained.

    Args:
      config: `config.optimizer`; `clip_norm` = 0 leaves gradients unclipped, as CLIP, CyCLIP and RankCLIP do.
      frozen: result of `frozen_mask`. Gradients of frozen parameters are ignored and excluded from the clipping norm.
    """
    if config.moments_dtype not in MOMENTS:
        raise UserError(f"config.optimizer.moments_dtype={config.moments_dtype!r} must be {' or '.join(MOMENTS)}")
    rule = lookup(UPDATE_RULES, config.name, "config.optimizer.name")(config, learning_rate, decay_mask)
    trained = optax.chain(optax.clip_by_global_norm(config.clip_norm), rule) if config.clip_norm else rule
    if frozen is None:
        return trained
    labels = jax.tree.map(lambda held: "frozen" if held else "trained", frozen)
    return optax.multi_transform({"trained": trained, "frozen": optax.stateless(_negative_zeros)}, labels)


def _negative_zeros(updates, params):
    """Updates that change no bit: x + -0 has the bits of x for every x, but -0 + +0 is +0."""
    del params
    return jax.tree.map(lambda update: jnp.full_like(update, -0.0), updates)
