"""Preprocessing of files against PIL, and pipelines of augmentations."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.images.augmentations import random_resized_crop
from rankclip_jax.data.images.decode import decode
from rankclip_jax.data.images.resize import parse_resize, resize_and_crop
from rankclip_jax.data.images.transforms import AUGMENTATIONS, make_augment
from rankclip_jax.data.pipeline_spec import defaults_of
from rankclip_jax.errors import UserError
from tests.golden import preprocessing as golden
from tests.support import paths


def random_image(height=64, width=64, seed=0):
    """Smooth random uint8 image."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 500), (501, 337), (256, 256), (640, 427), (180, 240)])
def test_preprocessing_of_jpegs_equals_pil(size, side):
    """Typical sizes of data sets, from the file to the pixels, against PIL's operations."""
    buffer = io.BytesIO()
    Image.fromarray(random_image(size[1], size[0])).save(buffer, "JPEG", quality=90)
    reference = Image.open(buffer).convert("RGB")
    ratio = side / min(size)
    resized = tuple(side if edge == min(size) else int(side * edge / min(size)) for edge in size)
    assert all(abs(edge * ratio - new) < 1 for edge, new in zip(size, resized, strict=True))
    reference = reference.resize(resized, Image.Resampling.BICUBIC)
    left, top = (round((edge - side) / 2) for edge in resized)
    expected = np.asarray(reference.crop((left, top, left + side, top + side)))
    decoded = decode(buffer.getvalue())
    np.testing.assert_array_equal(resize_and_crop(decoded, side), expected)
    np.testing.assert_array_equal(resize_and_crop(np.asarray(decoded), side), expected)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_arrays_and_pil_images_give_the_same(name):
    augment, image = make_augment(name, 40), random_image(60, 90)
    for seed in range(6):
        pil = augment(Image.fromarray(image), rng(seed))
        np.testing.assert_array_equal(pil, augment(image, rng(seed)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_uint8_deterministic_and_random(name):
    augment = make_augment(name, 64)
    image = random_image()
    before = image.copy()
    results = [augment(image, rng(seed)) for seed in range(8)]
    for seed, result in enumerate(results):
        assert result.shape == (64, 64, 3) and result.dtype == np.uint8
        np.testing.assert_array_equal(result, augment(image, rng(seed)))
    assert len({result.tobytes() for result in results}) > 1
    np.testing.assert_array_equal(image, before)


def test_pipeline_runs_in_order_and_ends_at_the_size():
    image = random_image(90, 120)
    result = make_augment("random_resized_crop(min_area=0.3) | flip(probability=1)", 24)(image, rng(3))
    crop = np.asarray(random_resized_crop(image, rng(3), size=24, min_area=0.3))
    np.testing.assert_array_equal(result, crop[:, ::-1])
    assert make_augment("flip", 24)(image, rng()).shape == (24, 24, 3)
    for nothing in ("", "none"):
        np.testing.assert_array_equal(make_augment(nothing, 24)(image, rng()), resize_and_crop(image, 24))


@pytest.mark.parametrize("rules", ["crop", "crop,open_clip", "crop,transformers"])
@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_images_become_rgb_by_the_rules_of_the_resize(rules, mode):
    """Without augmentation as in evaluation; augmentations get RGB images, on white if the rules say so."""
    given, resize = golden.image(mode, (45, 31)), parse_resize(rules)
    np.testing.assert_array_equal(make_augment("none", 16, rules)(given, rng()), resize(given, 16))
    found = make_augment("flip(probability=1)", 16, rules)(given, rng())
    expected = resize(np.asarray(resize.to_rgb(given))[:, ::-1].copy(), 16)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("flop", "unknown augmentation 'flop'. Did you mean 'flip'"),
        ("shift(scales=1)", "unknown option of augmentation shift 'scales'. Did you mean 'scale'"),
        ("shift(0.1)", "cannot read augmentation"),
        ("shift(scale=big)", "cannot read augmentation"),
        ("shift|", "cannot read augmentation ''"),
        ("shift.scale", "cannot read augmentation"),
        ("none|flip", "unknown augmentation 'none'"),
        ("random_resized_crop(size=3)", "unknown option of augmentation random_resized_crop 'size'"),
        ("randaugment(magnitude=31)", "magnitude must be from 0 to 30"),
        ("random_resized_crop(min_area=-1)", "fails (math domain error)"),
    ],
)
def test_bad_pipelines_are_named(pipeline, message):
    with pytest.raises(UserError) as caught:
        make_augment(pipeline, 64)
    assert message in str(caught.value)


def test_the_page_names_every_augmentation_with_its_defaults():
    page = (paths.ROOT / "docs" / "images.md").read_text()
    for name, function in AUGMENTATIONS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        given = dict(found.split("=") for found in re.findall(r"\w+=[\d.]+", row.split("|")[2]))
        defaults = {key: value for key, value in defaults_of(function).items() if isinstance(value, int | float)}
        assert {key: float(value) for key, value in given.items()} == pytest.approx(defaults, abs=1e-3)


def test_the_examples_of_the_page_compile():
    page = (paths.ROOT / "docs" / "images.md").read_text()
    examples = re.findall(r'--config\.data\.augment="?([^"\n]+?)"?$', page, re.MULTILINE)
    assert len(examples) >= 5
    for pipeline in examples:
        make_augment(pipeline, 32)
