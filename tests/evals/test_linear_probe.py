"""The probe's classifier against NumPy step by step and scikit-learn; chance level; accuracies by hand."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rankclip_jax.errors import UserError
from rankclip_jax.evals.linear_probe import (
    DEFAULTS,
    accuracies,
    checked_options,
    epoch_order,
    fit,
    init_params,
    logits_of,
    majority_class,
)

CLASSES, WIDTH = 5, 12


def clusters(count, spread, seed=0):
    """Features around one centre per class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = 3 * np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    return (centres[labels] + spread * rng.normal(size=(count, WIDTH))).astype(np.float32), labels


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def adamw_by_hand(features, labels, options):
    """torch.optim.AdamW's update as documented, in float64; initial values and orders are the probe's."""
    init, shuffle = jax.random.split(jax.random.key(options["seed"]))
    params = {k: np.float64(v) for k, v in init_params(init, WIDTH, CLASSES).items()}
    first, second = ({k: np.zeros_like(v) for k, v in params.items()} for _ in range(2))
    size = options["batch_size"]
    batches = -(-len(labels) // size)
    for t in range(options["epochs"] * batches):
        epoch, batch = divmod(t, batches)
        rows = np.asarray(epoch_order(shuffle, epoch, len(labels)))[batch * size : (batch + 1) * size]
        x = np.float64(features[rows])
        error = softmax(x @ params["kernel"] + params["bias"]) - np.eye(CLASSES)[labels[rows]]
        grads = {"kernel": x.T @ error / len(rows), "bias": error.mean(axis=0)}
        rate = options["learning_rate"] * 0.5 * (1 + np.cos(np.pi * t / (options["epochs"] * batches)))
        params["kernel"] = params["kernel"] * (1 - rate * options["weight_decay"])
        for k, g in grads.items():
            first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g * g
            m, v = first[k] / (1 - 0.9 ** (t + 1)), second[k] / (1 - 0.999 ** (t + 1))
            params[k] = params[k] - rate * m / (np.sqrt(v) + 1e-8)
    return params


@pytest.mark.parametrize("count, batch_size", [(40, 8), (43, 8), (5, 8)])  # full batches, one partial, only a partial
def test_every_step_follows_the_protocol(count, batch_size):
    features, labels = clusters(count, 2.0)
    options = DEFAULTS | {"epochs": 3, "batch_size": batch_size, "weight_decay": 0.3, "seed": 4}
    found, expected = fit(features, labels, CLASSES, options), adamw_by_hand(features, labels, options)
    np.testing.assert_allclose(found.kernel, expected["kernel"], atol=2e-6)
    np.testing.assert_allclose(found.bias, expected["bias"], atol=2e-6)


def test_the_protocol():
    assert DEFAULTS == {"epochs": 32, "batch_size": 128, "learning_rate": 0.005, "weight_decay": 0.01, "seed": 0}


def test_initial_values_are_those_of_pytorch():
    params = init_params(jax.random.key(0), 400, 50)
    bound = 400**-0.5
    for array in params.values():
        assert np.abs(array).max() <= bound and np.abs(array).max() > 0.9 * bound
        assert abs(float(array.mean())) < 0.3 * bound
    assert np.std(params["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_each_epoch_has_its_own_order_of_all_images():
    orders = [np.asarray(epoch_order(jax.random.key(0), epoch, 100)) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(*orders)


@pytest.mark.parametrize("spread", [0.5, 4.0])  # separable, and far from separable
def test_as_good_as_logistic_regression(spread):
    features, labels = clusters(2000, spread)
    others, truth = clusters(2000, spread, seed=1)
    probe = fit(features, labels, CLASSES, DEFAULTS)
    found = accuracies(np.asarray(logits_of(probe._asdict(), others)), truth)["top1"]
    expected = LogisticRegression(max_iter=1000).fit(features, labels).score(others, truth)
    assert (expected == 1.0) == (spread < 1)
    assert found == pytest.approx(expected, abs=0.01)


def test_random_features_reach_the_chance_level():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(2, 3000, 8)), rng.integers(0, CLASSES, (2, 3000))
    probe = fit(features[0], labels[0], CLASSES, DEFAULTS)
    scores = np.asarray(logits_of(probe._asdict(), features[1].astype(np.float32)))
    assert accuracies(scores, labels[1])["top1"] == pytest.approx(1 / CLASSES, abs=0.03)


def test_a_seed_decides_every_bit():
    features, labels = clusters(300, 2.0)
    one, again, other = (fit(features, labels, CLASSES, DEFAULTS | {"seed": seed}) for seed in (1, 1, 2))
    assert one.kernel.tobytes() == again.kernel.tobytes() and one.bias.tobytes() == again.bias.tobytes()
    assert not np.allclose(one.kernel, other.kernel)


def test_accuracies_by_hand():
    scores = np.array([[3, 1, 2], [0, 5, 1], [1, 2, 0], [1, 2, 9], [1, 0, 2]], float)
    found = accuracies(scores, np.array([0, 1, 0, 2, 0]))
    assert found["top1"] == pytest.approx(3 / 5)
    assert found["per_class"] == pytest.approx((1 / 3 + 1 + 1) / 3)


@pytest.mark.parametrize(
    "row", [[1, 1, 0], [np.nan, 0, 0], [1, np.nan, 0], [np.nan] * 3, [np.inf, np.inf, 0], [0, 0, 0]]
)
def test_ties_and_nan_are_wrong(row):
    assert accuracies(np.array([row]), np.array([0]))["top1"] == 0.0


def test_a_class_without_a_column_is_wrong_and_counts_as_a_class():
    found = accuracies(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, -1, -2]))
    assert (found["top1"], found["per_class"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert accuracies(np.full((1, 1), np.nan), np.array([0]))["top1"] == 0.0  # one column alone


def test_chance_is_the_majority_class():
    scores = majority_class(np.array([2, 0, 2, 1, 2]), 4, count=4)
    assert accuracies(scores, np.array([2, 0, 2, 3])) == {"top1": 0.5, "per_class": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"epoch": 3}, "unknown option of config.eval.linear_probe 'epoch'. Did you mean 'epochs'?"),
        ({"epochs": 0}, r"config\.eval\.linear_probe\.epochs=0 must be at least 1"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be at least 0"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_options_out_of_range(given, message):
    with pytest.raises(UserError, match=message):
        checked_options(given)


def test_defaults_are_the_protocol():
    assert checked_options({"epochs": 3}) == DEFAULTS | {"epochs": 3}
