"""Linear probe: how well a linear classifier tells classes apart by a model's features of images.

Protocol of CyCLIP's and RankCLIP's released code: a linear layer with a bias on the features after the projection, not
normalised, of images that are not augmented; cross-entropy, AdamW with weight decay on the weight alone, learning
rate 0.005 on a cosine to 0 without warm-up, 32 epochs of shuffled batches of 128, the last one partial; no validation
and no choice of an epoch. The layer starts as PyTorch's does, uniform within 1/sqrt(D).

For Aircraft, Caltech-101, Flowers-102 and Pets CyCLIP's code takes the mean accuracy of the classes in place of the
accuracy of the images; which of them the tables of RankCLIP hold is our question, so both are given.

Letters: N training images, M images, D features, K classes, B batch.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankclip_jax.errors import UserError, lookup

DEFAULTS = {"epochs": 32, "batch_size": 128, "learning_rate": 0.005, "weight_decay": 0.01, "seed": 0}
LEAST = {"epochs": 1, "batch_size": 1, "learning_rate": 0.0, "weight_decay": 0.0, "seed": 0}


class Probe(NamedTuple):
    """logits = features @ kernel + bias; float32 [D, K] and [K]."""

    kernel: np.ndarray
    bias: np.ndarray


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`DEFAULTS` with what is given in place of some; `UserError` for an unknown one or one out of range."""
    for name, value in given.items():
        lookup(DEFAULTS, name, "option of config.eval.linear_probe")
        if not np.isfinite(value) or value < LEAST[name]:
            raise UserError(f"config.eval.linear_probe.{name}={value} must be at least {LEAST[name]}.")
    return DEFAULTS | dict(given)


def fit(features_ND: np.ndarray, labels_N: np.ndarray, num_classes: int, options: Mapping[str, Any]) -> Probe:
    """Train a probe; the same arguments give the same bits.

    Args:
      features_ND: float [N, D].
      labels_N: int [N], below `num_classes`.
      num_classes: K.
      options: as `checked_options` returns them.
    """
    params = _fit(
        jnp.asarray(features_ND, jnp.float32),
        jnp.asarray(labels_N, jnp.int32),
        num_classes,
        options["epochs"],
        options["batch_size"],
        float(options["learning_rate"]),
        float(options["weight_decay"]),
        jax.random.key(options["seed"]),
    )
    return Probe(**jax.tree.map(np.asarray, params))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _fit(features, labels, num_classes, epochs, batch_size, learning_rate, weight_decay, key):
    num_records, width = features.shape
    batches = -(-num_records // batch_size)
    init, shuffle = jax.random.split(key)
    schedule = optax.cosine_decay_schedule(learning_rate, epochs * batches)
    optimizer = optax.adamw(schedule, weight_decay=weight_decay, mask={"kernel": True, "bias": False})

    def loss(params, rows):
        # A row of -1 fills up the last batch; its image counts for nothing.
        logits = logits_of(params, features[rows])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.sum(each * (rows >= 0)) / jnp.sum(rows >= 0)

    def step(state, rows):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def epoch(state, number):
        order = epoch_order(shuffle, number, num_records)
        filled = jnp.pad(order, (0, batches * batch_size - num_records), constant_values=-1)
        return jax.lax.scan(step, state, filled.reshape(batches, batch_size))

    params = initial(init, width, num_classes)
    (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), jnp.arange(epochs))
    return params


def initial(key: jax.Array, width: int, num_classes: int) -> dict[str, jax.Array]:
    """The layer before training."""
    bound = width**-0.5
    draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
    of_kernel, of_bias = jax.random.split(key)
    return {"kernel": draw(of_kernel, (width, num_classes)), "bias": draw(of_bias, (num_classes,))}


def epoch_order(key: jax.Array, number: int, num_records: int) -> jax.Array:
    """In which order an epoch goes through the training images, int32 [N]."""
    return jax.random.permutation(jax.random.fold_in(key, number), num_records)


def logits_of(params: Mapping[str, jax.Array], features_MD: jax.Array) -> jax.Array:
    """[M, K] in float32, also where a device would rather multiply in less."""
    return jnp.matmul(features_MD, params["kernel"], precision=jax.lax.Precision.HIGHEST) + params["bias"]


def accuracies(scores_MK: np.ndarray, labels_M: np.ndarray) -> dict[str, float]:
    """Return ``top1``, the share of images whose class scores above all others, and ``per_class``.

    ``per_class`` is the mean of that share over the classes that have images. Ties and NaN count against the
    model; so do negative labels, of classes that no column stands for.
    """
    own = np.take_along_axis(scores_MK, np.maximum(labels_M, 0)[:, None], axis=1)
    right = (np.sum(~(scores_MK < own), axis=1) == 1) & np.isfinite(own[:, 0]) & (labels_M >= 0)
    shares = [np.mean(right[labels_M == label]) for label in np.unique(labels_M)]
    return {"top1": float(np.mean(right)), "per_class": float(np.mean(shares))}


def commonest_class(train_labels_N: np.ndarray, num_classes: int, count: int) -> np.ndarray:
    """Scores [M, K] of a classifier that looks at no image: a probe's bias alone reaches this."""
    commonest = np.argmax(np.bincount(train_labels_N, minlength=num_classes))
    return np.tile(np.eye(num_classes)[commonest], (count, 1))
