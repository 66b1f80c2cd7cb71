"""The classifier of a linear probe: one linear layer on image features, and its accuracies.

The protocol is that of CyCLIP's and RankCLIP's released code. A linear layer with a bias reads projected features,
without normalisation, of images without augmentation. Loss: cross-entropy. Optimizer: AdamW with weight decay on the
kernel only; learning rate 0.005, cosine decay to 0, no warm-up. Training: 32 epochs of shuffled batches of 128 (the
last batch of an epoch is smaller), no validation; the last epoch is used. Initial values as in PyTorch: uniform within
1/sqrt(D).

For Aircraft, Caltech-101, Flowers-102 and Pets, CyCLIP's code reports the mean accuracy over classes, not over images.
Which of the two RankCLIP's tables report is unknown, so both are computed.

Letters: N training images, M images, D features, K classes.
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
MINIMUM = {"epochs": 1, "batch_size": 1, "learning_rate": 0.0, "weight_decay": 0.0, "seed": 0}


class Probe(NamedTuple):
    """logits = features @ kernel + bias; float32 [D, K] and [K]."""

    kernel: np.ndarray
    bias: np.ndarray


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `DEFAULTS` updated by ``given``; raise `UserError` for an option that is unknown or out of range."""
    for name, value in given.items():
        lookup(DEFAULTS, name, "option of config.eval.linear_probe")
        if not np.isfinite(value) or value < MINIMUM[name]:
            raise UserError(f"config.eval.linear_probe.{name}={value} must be at least {MINIMUM[name]}.")
    return DEFAULTS | dict(given)


def fit(features_ND: np.ndarray, labels_N: np.ndarray, num_classes: int, options: Mapping[str, Any]) -> Probe:
    """Train a probe; the same arguments give the same bits.

    Args:
      features_ND: float [N, D].
      labels_N: int [N], 0 .. K - 1.
      num_classes: K.
      options: as `checked_options` returns them.
    """
    params = _fit(
        jnp.asarray(features_ND, jnp.float32),
        jnp.asarray(labels_N, jnp.int32),
        jax.random.key(options["seed"]),
        {name: float(options[name]) for name in ("learning_rate", "weight_decay")},
        num_classes=num_classes,
        epochs=options["epochs"],
        batch_size=options["batch_size"],
    )
    return Probe(**jax.tree.map(np.asarray, params))


@functools.partial(jax.jit, static_argnames=("num_classes", "epochs", "batch_size"))
def _fit(features, labels, key, rates, *, num_classes, epochs, batch_size):
    num_records, width = features.shape
    batches = -(-num_records // batch_size)
    init, shuffle = jax.random.split(key)
    schedule = optax.cosine_decay_schedule(rates["learning_rate"], epochs * batches)
    optimizer = optax.adamw(schedule, weight_decay=rates["weight_decay"], mask={"kernel": True, "bias": False})

    def loss(params, rows):
        # The last batch is padded with rows of -1, which are excluded from the mean.
        logits = logits_of(params, features[rows])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.sum(each * (rows >= 0)) / jnp.sum(rows >= 0)

    def step(state, rows):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def run_epoch(state, epoch):
        order = epoch_order(shuffle, epoch, num_records)
        padded = jnp.pad(order, (0, batches * batch_size - num_records), constant_values=-1)
        return jax.lax.scan(step, state, padded.reshape(batches, batch_size))

    params = init_params(init, width, num_classes)
    (params, _), _ = jax.lax.scan(run_epoch, (params, optimizer.init(params)), jnp.arange(epochs))
    return params


def init_params(key: jax.Array, width: int, num_classes: int) -> dict[str, jax.Array]:
    """Return the kernel [D, K] and the bias [K] before training."""
    bound = width**-0.5
    draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
    kernel_key, bias_key = jax.random.split(key)
    return {"kernel": draw(kernel_key, (width, num_classes)), "bias": draw(bias_key, (num_classes,))}


def epoch_order(key: jax.Array, epoch: int, num_records: int) -> jax.Array:
    """Return the order of the training images in an epoch, int32 [N]."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_records)


def logits_of(params: Mapping[str, jax.Array], features_MD: jax.Array) -> jax.Array:
    """Return float32 [M, K], with full precision also on devices whose default is lower."""
    return jnp.matmul(features_MD, params["kernel"], precision=jax.lax.Precision.HIGHEST) + params["bias"][None]


def accuracies(scores_MK: np.ndarray, labels_M: np.ndarray) -> dict[str, float]:
    """Return ``top1``, the fraction of images whose true class has the highest score, and ``per_class``.

    ``per_class`` is the mean of that fraction over the classes that have images. Ties, NaN, and images with a negative
    label (their class has no column) count against the model.

    Args:
      scores_MK: float [M, K].
      labels_M: int [M], the column of the true class of each image, or negative.
    """
    own = np.take_along_axis(scores_MK, np.maximum(labels_M, 0)[:, None], axis=1)
    correct = (np.sum(~(scores_MK < own), axis=1) == 1) & np.isfinite(own[:, 0]) & (labels_M >= 0)
    class_means = [np.mean(correct[labels_M == label]) for label in np.unique(labels_M)]
    return {"top1": float(np.mean(correct)), "per_class": float(np.mean(class_means))}


def majority_class(train_labels_N: np.ndarray, num_classes: int, count: int) -> np.ndarray:
    """Return scores [M, K] of a classifier that always answers the most frequent class of the training images."""
    majority = np.argmax(np.bincount(train_labels_N, minlength=num_classes))
    return np.tile(np.eye(num_classes)[majority], (count, 1))
