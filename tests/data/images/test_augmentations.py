"""Training augmentations: how each changes pixels, and the distribution of its random draws."""

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.images.augmentations import affine, color_jitter, flip, random_resized_crop, recolor, shift
from tests.data.images.test_transforms import random_image, rng


def test_flip_mirrors_half_of_the_time():
    image = random_image()
    flips = [np.array_equal(flip(image, rng(seed)), image[:, ::-1]) for seed in range(400)]
    assert 160 < sum(flips) < 240
    assert flip(image, rng(), probability=0.0) is image


def dot(row, column):
    image = np.full((64, 64, 3), 255, np.uint8)
    image[row, column] = 0
    return image


def test_shift_moves_whole_pixels_and_fills_with_white():
    moves = set()
    for seed in range(200):
        result = shift(dot(32, 32), rng(seed), translate=0.1, scale=0.0)
        rows, columns = np.nonzero(result[:, :, 0] == 0)
        assert len(rows) == 1 and (np.delete(result.reshape(-1, 3), rows * 64 + columns, 0) == 255).all()
        moves.add((rows[0] - 32, columns[0] - 32))
    moves = np.array(sorted(moves))
    assert moves.min() == -6 and moves.max() == 6 and len(moves) > 50


def test_shift_zooms_about_the_centre():
    image = np.full((64, 64, 3), 255, np.uint8)
    image[16:48, 16:48] = 0
    areas, centres = [], []
    for seed in range(100):
        dark = 255 - shift(image, rng(seed), translate=0.0, scale=0.2)[:, :, 0].astype(float)
        areas.append(dark.sum() / 255 / 32**2)
        centres.append((dark.sum(1) @ np.arange(64) / dark.sum(), dark.sum(0) @ np.arange(64) / dark.sum()))
    assert 0.68 < min(areas) < 0.75 and 1.4 < max(areas) < 1.6  # 1 / 1.2**2 to 1 / 0.8**2
    np.testing.assert_allclose(centres, 31.5, atol=0.05)


def test_random_resized_crop_stays_inside_and_varies():
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[:, None, None] * 2, (128, 128, 3)).copy()
    spans = []
    for seed in range(100):
        crop = np.asarray(random_resized_crop(ramp, rng(seed), size=32, min_area=0.25))
        spans.append(int(crop[-1, 0, 0]) - int(crop[0, 0, 0]))
        assert crop.shape == (32, 32, 3)
    assert min(spans) < 140 and max(spans) > 200  # range of the 254 gray levels inside the crop


def test_a_crop_of_everything_is_the_image():
    image = random_image()
    np.testing.assert_array_equal(random_resized_crop(image, rng(), size=64, min_area=1.0, max_ratio=1.0), image)


def test_crops_are_distributed_like_torchvisions(monkeypatch):
    """Uniform area, independent log-uniform aspect ratio, uniform position."""
    boxes = []
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: boxes.append(box) or self)
    image = Image.fromarray(random_image(300, 400))
    source = rng()
    for _ in range(2000):
        random_resized_crop(image, source, size=8, min_area=0.08)
    left, top, right, bottom = np.array(boxes, float).T
    area, log_ratio = (right - left) * (bottom - top) / 120_000, np.log((right - left) / (bottom - top))
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    assert 0.078 < area.min() < 0.09 and np.abs(log_ratio).max() < np.log(4 / 3) + 0.02
    small = area < 0.5  # of larger crops, many tall ones do not fit and are drawn again
    assert abs(area[small].mean() - 0.29) < 0.02 and abs(log_ratio[small].mean()) < 0.02
    assert abs(log_ratio[small].std() - 2 * np.log(4 / 3) / np.sqrt(12)) < 0.01
    positions = left[small] / (400 - (right - left))[small]
    assert abs(positions.mean() - 0.5) < 0.03 and abs(positions.std() - 1 / np.sqrt(12)) < 0.02


@pytest.mark.parametrize(("shape", "box"), [((20, 400), (186, 0, 213, 20)), ((400, 20), (0, 186, 20, 213))])
def test_if_no_crop_fits_the_centre_is_used(monkeypatch, shape, box):
    found = []
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: found.append(box) or self)
    random_resized_crop(random_image(*shape), rng(), size=8, min_area=1.0)
    assert found == [box]


def test_color_jitter_changes_brightness_contrast_and_saturation():
    image = random_image()
    assert np.array_equal(color_jitter(image, rng(), brightness=0, contrast=0, saturation=0), image)
    flat = np.full((8, 8, 3), 100, np.uint8)
    assert np.array_equal(color_jitter(flat, rng(), brightness=0, contrast=0.9, saturation=0.9), flat)
    bright = color_jitter(flat, rng(1), brightness=0.5, contrast=0, saturation=0)
    assert bright.min() == bright.max() != 100 and 50 <= bright.max() <= 150
    deviations = [color_jitter(image, rng(s), brightness=0, contrast=0.5, saturation=0).std() for s in range(20)]
    assert min(deviations) < 0.7 * image.std()
    gray = color_jitter(image, rng(_lowest_third_draw()), brightness=0, contrast=0, saturation=1).astype(int)
    assert np.ptp(gray, axis=2).max() < 0.2 * np.ptp(image.astype(int), axis=2).max()


def _lowest_third_draw():
    """A seed whose third draw is close to 0; it scales the saturation, so the result is nearly gray."""
    return min(range(200), key=lambda seed: rng(seed).random(3)[2])


def test_color_jitter_clips_instead_of_wrapping():
    image = np.full((8, 8, 3), 250, np.uint8)
    image[0] = 5
    for seed in range(20):
        result = color_jitter(image, rng(seed), brightness=0.9, contrast=0.9).astype(int)
        assert (result[0] <= result[1]).all()


def test_affine_at_zero_changes_nothing():
    image = random_image(32, 32)
    assert np.array_equal(affine(image, rng(), degrees=0, scale=0, stretch=0, translate=0), image)


def test_affine_rotates_about_the_centre_and_fills_with_white():
    dot = np.full((33, 33, 3), 255, np.uint8)
    dot[16, 16] = 0
    turned = np.asarray(affine(dot, rng(3), degrees=180, scale=0, stretch=0, translate=0))
    assert turned[16, 16].max() < 60  # the centre stays
    black = np.zeros((32, 32, 3), np.uint8)
    smaller = [np.asarray(affine(black, rng(i), degrees=0, scale=0.5, stretch=0, translate=0)) for i in range(10)]
    assert any((image[0] == 255).all() and (image[16, 16] == 0).all() for image in smaller)


def test_affine_moves_by_at_most_the_given_fraction():
    dot = np.full((64, 64, 3), 255, np.uint8)
    dot[30:34, 30:34] = 0
    centres = []
    for seed in range(200):
        moved = affine(dot, rng(seed), degrees=0, scale=0, stretch=0, translate=0.25)
        dark = 255.0 - np.asarray(moved)[:, :, 0]
        centres.append((dark.sum(0) @ np.arange(64)) / dark.sum() - 31.5)
    assert 14 < max(centres) <= 16.5 and -16.5 <= min(centres) < -14


def test_recolor_keeps_white_and_changes_every_other_colour():
    image = np.full((8, 8, 3), 255, np.uint8)
    assert np.array_equal(recolor(image, rng()), image)
    image[:4] = (200, 40, 90)
    assert np.array_equal(recolor(image, rng(), strength=0), image)
    changed = recolor(image, rng(1))
    assert (changed[4:] == 255).all() and (changed[0, 0] != image[0, 0]).any()
    assert (changed[:4] == changed[0, 0]).all()  # one map for the whole image


def test_recolor_clips_instead_of_wrapping():
    image = np.tile(np.array([[0, 255, 128]], np.uint8), (64, 1)).reshape(8, 8, 3)
    ink = 255.0 - image.astype(float)
    for seed in range(20):
        mixing = np.eye(3) + 2.0 * rng(seed).standard_normal((3, 3), np.float32)
        expected = np.clip(255 - ink @ mixing, 0, 255)
        assert np.abs(recolor(image, rng(seed), strength=2.0) - expected).max() <= 1
