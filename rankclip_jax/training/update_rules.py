"""Update rules of the optimizer: from the gradient to the change of the parameters, by name.

All of them are optax's, with the same decoupled weight decay: p <- p - lr (u + weight_decay p), where u is the rule's
direction and biases, scales of norms and learned scalars have no decay. Bytes of state for each parameter, with float32
and bfloat16 moments:

    adamw      8, 6    two moments; only the first one may be bfloat16
    lion       4, 2    one moment
    adafactor  4, 2    one moment; the second one is factored into rows and columns
    muon       4, 2    one moment for matrices; AdamW for everything else
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from rankclip_jax.schedules import Schedule
from rankclip_jax.trees import path_of

# Inputs and outputs of the towers, which Muon leaves to AdamW: its authors orthogonalise hidden layers only.
NOT_HIDDEN = ("token_embedding", "positional_embedding", "class_embedding", "proj", "text_projection", "conv1", "down0")
MUON_RMS = 0.2  # root mean square of Muon's updates, about that of Adam's (Liu et al. 2025, arXiv 2502.16982)
FACTORED_FROM = 32  # Adafactor factors axes of at least this size, as big_vision does


def adamw(config: ConfigDict, learning_rate: Schedule, decays: Any) -> optax.GradientTransformation:
    """Loshchilov and Hutter 2019, arXiv 1711.05101; the choice of CLIP."""
    options = {name: config[name] for name in ("b1", "b2", "eps", "weight_decay")}
    return optax.adamw(learning_rate, **options, mu_dtype=config.moments_dtype, mask=decays)


def lion(config: ConfigDict, learning_rate: Schedule, decays: Any) -> optax.GradientTransformation:
    """Chen et al. 2023, arXiv 2302.06675: the sign of an average. Its authors use a learning rate 3 to 10 times lower
    than AdamW's, and a weight decay as many times higher."""
    direction = optax.scale_by_lion(config.b1, config.b2, mu_dtype=config.moments_dtype)
    return _decayed(direction, config, learning_rate, decays)


def adafactor(config: ConfigDict, learning_rate: Schedule, decays: Any) -> optax.GradientTransformation:
    """Shazeer and Stern 2018, arXiv 1804.04235, with momentum and without the parameters' scale, as Zhai et al. 2022
    (arXiv 2106.04560) train ViTs, with AdamW's learning rate. `b2` has no effect: its decay is 1 - t^-0.8."""
    direction = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=FACTORED_FROM),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.b1, debias=False, accumulator_dtype=config.moments_dtype),
    )
    return _decayed(direction, config, learning_rate, decays)


def muon(config: ConfigDict, learning_rate: Schedule, decays: Any) -> optax.GradientTransformation:
    """Jordan et al. 2024 (kellerjordan.github.io/posts/muon): momentum, orthogonalised by a Newton-Schulz iteration.

    Matrices of hidden layers only, each layer of a scanned stack by itself; a convolution's kernel is a matrix from all
    of its inputs to its channels. Updates are scaled to the size of Adam's, so AdamW's learning rate and decay suit.
    """
    moments = {"mu_dtype": config.moments_dtype}
    direction = optax.partition(
        {
            "muon": optax.chain(
                scale_by_muon(beta=config.muon_beta, weight_dimension_numbers=_muon_axes, **moments),
                optax.stateless(_with_rms),
            ),
            "adam": optax.scale_by_adam(config.b1, config.b2, config.eps, **moments),
        },
        lambda params: jax.tree_util.tree_map_with_path(_muon_or_adam, params),
    )
    return _decayed(direction, config, learning_rate, decays)


UPDATE_RULES: dict[str, Callable[[ConfigDict, Schedule, Any], optax.GradientTransformation]] = {
    "adamw": adamw,
    "lion": lion,
    "adafactor": adafactor,
    "muon": muon,
}


def _decayed(direction, config: ConfigDict, learning_rate: Schedule, decays: Any) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(config.weight_decay, mask=decays)
    return optax.chain(direction, decay, optax.scale_by_learning_rate(learning_rate))


def _muon_or_adam(path, leaf) -> str:
    keys = path_of(path)
    is_matrix = leaf.ndim >= 2 and keys[0] != "scalars" and not keys[-1].endswith(("bias", "scale"))
    return "muon" if is_matrix and not set(keys) & set(NOT_HIDDEN) else "adam"


def _muon_axes(params: Any) -> Any:
    """Which axes of each parameter are a matrix's inputs; the last one is its output, the others count matrices."""
    return jax.tree.map(lambda leaf: MuonDimensionNumbers(_inputs(leaf), leaf.ndim - 1), params)


def _inputs(leaf) -> tuple[int, ...]:
    """The first three of a convolution, [height, width, in, out]; the second of a scanned stack, [layers, in, out]."""
    return (0, 1, 2) if leaf.ndim == 4 else (leaf.ndim - 2,)


def _with_rms(updates: Any, params: Any) -> Any:
    """Scale orthogonal matrices [in, out], whose root mean square is max(in, out)^-1/2, to `MUON_RMS`."""
    del params

    def scaled(update):
        inputs = math.prod(update.shape[axis] for axis in _inputs(update))
        return update * (MUON_RMS * math.sqrt(max(inputs, update.shape[-1])))

    return jax.tree.map(scaled, updates)
