"""RandAugment and AutoAugment: their operations against a second implementation in numpy, and their draws."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rankclip_jax.data.images import policies
from rankclip_jax.data.images.policies import IMAGENET_POLICY, SIGNED, UNSIGNED, autoaugment, operate, randaugment
from tests.data.images.test_transforms import random_image

IMAGE = random_image(48, 66)


def grey(pixels):
    return np.asarray(Image.fromarray(pixels).convert("L")).astype(float)[..., None]


def blend(ground, pixels, factor):
    return np.clip(ground + factor * (pixels - ground), 0, 255)


def moved(pixels, down, right):
    """Output pixel (y, x) is input pixel (y - down, x - right); black from outside."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    rows, columns = np.floor(rows + 0.5 - down).astype(int), np.floor(columns + 0.5 - right).astype(int)
    inside = (rows >= 0) & (rows < pixels.shape[0]) & (columns >= 0) & (columns < pixels.shape[1])
    return pixels[rows.clip(0, len(pixels) - 1), columns.clip(0, pixels.shape[1] - 1)] * inside[..., None]


def shear_x(pixels, strength):
    rows = (np.arange(pixels.shape[0]) + 0.5)[:, None]
    return moved(pixels, 0, -0.3 * strength * rows)


def shear_y(pixels, strength):
    columns = (np.arange(pixels.shape[1]) + 0.5)[None]
    return moved(pixels, -0.3 * strength * columns, 0)


def translate_x(pixels, strength):
    return moved(pixels, 0, int(150 / 331 * pixels.shape[1] * strength))


def translate_y(pixels, strength):
    return moved(pixels, int(150 / 331 * pixels.shape[0] * strength), 0)


def autocontrast(pixels, strength):
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    return np.floor((pixels.astype(float) - low) * 255 / (high - low))


def sharpness(pixels, strength):
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.SMOOTH)).astype(float)
    return blend(smooth, pixels.astype(float), 1 + 0.9 * strength)


REFERENCE = {
    "identity": lambda p, strength: p,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "brightness": lambda p, strength: blend(0.0, p.astype(float), 1 + 0.9 * strength),
    "color": lambda p, strength: blend(grey(p), p.astype(float), 1 + 0.9 * strength),
    "contrast": lambda p, strength: blend(np.floor(grey(p).mean() + 0.5), p.astype(float), 1 + 0.9 * strength),
    "sharpness": sharpness,
    "posterize": lambda p, strength: p & (0xFF << round(4 * strength) & 0xFF),
    "solarize": lambda p, strength: np.where(p < 255 * (1 - strength), p, 255 - p),
    "autocontrast": autocontrast,
    "invert": lambda p, strength: 255 - p,
}


@pytest.mark.parametrize("name", [name for name in SIGNED | UNSIGNED if name not in ("rotate", "equalize")])
@pytest.mark.parametrize("direction", [1, -1])
def test_operations_against_numpy(name, direction):
    for strength in (0.0, 0.3, 0.45, 0.5, 1.0):
        expected = REFERENCE[name](IMAGE, strength * direction if name in SIGNED else strength)
        found = np.asarray(operate(Image.fromarray(IMAGE), name, strength, direction)).astype(float)
        near = np.abs(found - expected) <= 1
        assert near.all(axis=2).mean() > 0.995, strength  # at edges, nearest pixels may round differently


def test_rotation_and_equalisation():
    """Operations without a reference: rotation has the given angle, equalization spreads the levels evenly."""
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[30:35, 57:62] = 255  # to the right of the centre
    turned = np.asarray(operate(Image.fromarray(dot), "rotate", 1.0, 1)).astype(float)[..., 0]
    row, column = (turned.sum(axis) @ np.arange(65) / turned.sum() - 32 for axis in (1, 0))
    assert np.degrees(np.arctan2(-row, column)) == pytest.approx(30, abs=1.5)  # counter-clockwise
    narrow = (IMAGE // 8 + 100).astype(np.uint8)
    even = np.asarray(operate(Image.fromarray(narrow), "equalize", 1.0, 1)).astype(float)
    assert np.ptp(narrow) < 40 and np.ptp(even) > 240 and abs(even.mean() - 127) < 15


def record(monkeypatch):
    """List of the operations that are called, as (name, strength, direction)."""
    calls = []
    monkeypatch.setattr(policies, "operate", lambda image, *call: calls.append(call) or image)
    return calls


def test_randaugment_draws_evenly(monkeypatch):
    calls, rng = record(monkeypatch), np.random.default_rng(0)
    for _ in range(1400):
        randaugment(IMAGE, rng, n=3, magnitude=9)
    assert len(calls) == 4200
    names = Counter(name for name, _, _ in calls)
    assert len(names) == 14 and "invert" not in names  # torchvision's list of operations
    assert max(abs(count - 300) for count in names.values()) < 75  # 4.5 standard deviations
    assert {strength for _, strength, _ in calls} == {9 / 30}
    assert abs(np.mean([direction for *_, direction in calls])) < 0.06


def test_autoaugment_follows_its_policy(monkeypatch):
    calls, rng = record(monkeypatch), np.random.default_rng(0)
    rounds = 5000
    for _ in range(rounds):
        autoaugment(IMAGE, rng)
    expected = Counter()
    for pair in IMAGENET_POLICY:
        for name, probability, magnitude in pair:
            expected[name, magnitude / 9] += probability * rounds / len(IMAGENET_POLICY)
    found = Counter((name, strength) for name, strength, _ in calls)
    assert set(found) == {key for key, count in expected.items() if count}
    for key, count in found.items():
        assert abs(count - expected[key]) < 5 * np.sqrt(expected[key]), key


def test_the_policy_has_25_pairs_of_known_operations():
    assert len(IMAGENET_POLICY) == 25
    for pair in IMAGENET_POLICY:
        for name, probability, magnitude in pair:
            assert name in SIGNED | UNSIGNED and 0 <= probability <= 1 and 0 <= magnitude <= 9
    # Table 9, "Operation 1" and "Operation 2" of sub-policies 0, 13, 17, 18 and 24.
    assert IMAGENET_POLICY[0] == (("posterize", 0.4, 8), ("rotate", 0.6, 9))
    assert IMAGENET_POLICY[13][0][0] == "invert" and IMAGENET_POLICY[17][0] == ("sharpness", 0.4, 7)
    assert IMAGENET_POLICY[18][0] == ("shear_x", 0.6, 5) and IMAGENET_POLICY[24][1][0] == "equalize"


def test_images_change_and_keep_their_size():
    for policy in (randaugment, autoaugment):
        results = [np.asarray(policy(IMAGE, np.random.default_rng(seed))) for seed in range(20)]
        assert all(result.shape == IMAGE.shape for result in results)
        assert len({result.tobytes() for result in results}) > 10
