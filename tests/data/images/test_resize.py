"""Resizing to the input of a tower, against PIL, open_clip's stored results, and what the text of a resize may say."""

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.images.resize import LONG, Resize, make_resize, parse_resize, resize_and_crop
from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.preprocessing import read_preprocess_cfg
from tests.golden import preprocessing
from tests.golden.preprocessing import CASES, SETTINGS, SIZES, image


def random_image(height=64, width=64, seed=0):
    """Smooth random uint8 image."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def stored():
    with np.load(preprocessing.FILE) as file:
        return dict(file)


@pytest.mark.parametrize("settings", SETTINGS)
def test_images_are_prepared_like_open_clips(stored, settings):
    """Exactly, in every mode and for odd margins: open_clip wrote the expected pixels."""
    options, size = SETTINGS[settings]
    resize = parse_resize(read_preprocess_cfg(options, "here", size)["resize"])
    for case in (case for case in CASES if case[0] == settings):
        found = resize(image(case[1], SIZES[case[2]]), size)
        np.testing.assert_array_equal(found, stored["|".join(case)], err_msg=str(case))


@pytest.mark.parametrize(
    ("height", "width", "resized", "corner"),
    [
        (100, 151, (33, 49), (0, 8)),  # 33 * 151 / 100 is 49.83, which torchvision truncates to 49
        (300, 200, (49, 33), (8, 0)),
        (64, 64, (33, 33), (0, 0)),
        (20, 27, (33, 44), (0, 6)),  # enlarging; (44 - 33) / 2 = 5.5 rounds to even
    ],
)
def test_the_default_equals_pil(height, width, resized, corner):
    pixels = random_image(height, width)
    reference = Image.fromarray(pixels).resize(resized[::-1], Image.Resampling.BICUBIC)
    top, left = corner
    expected = np.asarray(reference)[top : top + 33, left : left + 33]
    for form in (pixels, Image.fromarray(pixels)):
        result = resize_and_crop(form, 33)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)


def test_the_default_drops_transparency_before_the_resize():
    transparent = image("RGBA", (45, 31))
    np.testing.assert_array_equal(Resize()(transparent, 16), Resize()(transparent.convert("RGB"), 16))


def test_it_low_passes_when_it_shrinks():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    result = resize_and_crop(stripes, 16).astype(int)
    assert np.abs(result - 127).max() < 20  # nearest-neighbour sampling would give black or white


def test_an_image_of_the_right_size_is_unchanged():
    pixels = random_image(32, 48)
    np.testing.assert_array_equal(resize_and_crop(pixels, 32), pixels[:, 8:40])
    square = random_image(32, 32)
    for form in (square, Image.fromarray(square)):
        np.testing.assert_array_equal(resize_and_crop(form, 32), square)


def test_a_very_long_image_needs_little_memory():
    """A resize of the whole image would have 224 x 4,480,000 pixels. For smaller images both ways give the same."""
    assert resize_and_crop(np.zeros((1, 20_000, 3), np.uint8), 224).shape == (224, 224, 3)
    assert resize_and_crop(np.zeros((20_000, 1, 3), np.uint8), (224, 112)).shape == (224, 112, 3)
    line = random_image(20, 20 * (LONG + 2))
    whole = np.asarray(Image.fromarray(line).resize((24 * (LONG + 2), 24), Image.Resampling.BICUBIC))
    left = (24 * (LONG + 2) - 24) // 2
    difference = resize_and_crop(line, 24).astype(int) - whole[:, left : left + 24]
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("text", "resize"),
    [
        ("crop", Resize()),
        ("squash,bilinear", Resize("squash", filter="bilinear")),
        ("crop, 256, nearest, transformers", Resize("crop", 256, "nearest", "transformers")),
        ("crop,open_clip", Resize("crop", library="open_clip")),
    ],
)
def test_the_text_of_a_resize(text, resize):
    assert parse_resize(text) == resize
    assert str(resize) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("stretch", 16, "unknown resize 'stretch'"),
        ("crop,cubic", 16, "unknown part of model.image.resize='crop,cubic', 'cubic'. Did you mean 'bicubic'"),
        ("crop,0", 16, "unknown part of"),
        ("crop,12", 16, "resizes to 12 pixels, and the tower reads 16: set model.image.resize=crop"),
        ("crop,32", (16, 12), r"resizes to 32 pixels, and the tower reads \(16, 12\)"),
    ],
)
def test_texts_that_are_refused(text, size, message):
    with pytest.raises(UserError, match=message):
        make_resize(text, size)
