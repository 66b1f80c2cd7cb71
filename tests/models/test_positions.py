"""Position embeddings for other sizes: PyTorch's values, the class token, errors."""

import json

import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.models.positions import fit_image_positions, fit_text_positions, resize_grid
from tests.golden import positions


@pytest.mark.parametrize("case", positions.CASES)
def test_grids_are_resized_like_pytorchs(case):
    """Bicubic with antialiasing, also if one side grows and the other shrinks, and for large factors."""
    old, new = positions.CASES[case]
    found = resize_grid(positions.grid(old), new)
    assert found.dtype == np.float32
    expected = np.reshape(json.loads(positions.path().read_text())[case], (*new, 2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def rows(count, width=3):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_class_token_is_unchanged_and_patches_are_resized(class_token):
    given = rows(16 + class_token)
    found = fit_image_positions(given, image_size=48, patch_size=8, class_token=class_token, old_size=32)
    assert found.shape == (36 + class_token, 3)
    first = int(class_token)
    np.testing.assert_array_equal(found[:first], given[:first])
    expected = resize_grid(given[first:].reshape(4, 4, 3), (6, 6)).reshape(36, 3)
    np.testing.assert_array_equal(found[first:], expected)


def test_images_that_are_not_square():
    given = rows(1 + 4 * 2)
    found = fit_image_positions(given, (16, 48), 8, class_token=True, old_size=(32, 16))
    expected = resize_grid(given[1:].reshape(4, 2, 3), (2, 6)).reshape(12, 3)
    np.testing.assert_array_equal(found, np.concatenate([given[:1], expected]))


def test_a_linear_field_stays_linear():
    """Rows and columns are not mixed up."""
    y, x = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(8) + 0.5) / 8, indexing="ij")
    found = fit_image_positions(np.float32([y.ravel(), x.ravel()]).T, 16, 1, class_token=False, old_size=8).reshape(
        16, 16, 2
    )
    fine = (np.arange(16) + 0.5) / 16
    inner = slice(4, 12)  # bicubic is not linear at the borders
    np.testing.assert_allclose(found[inner, inner, 0], np.tile(fine[inner, None], (1, 8)), atol=1e-6)
    np.testing.assert_allclose(found[inner, inner, 1], np.tile(fine[None, inner], (8, 1)), atol=1e-6)


def test_the_same_size_changes_nothing():
    given = rows(17)
    np.testing.assert_array_equal(fit_image_positions(given, 32, 8, class_token=True, old_size=32), given)
    np.testing.assert_array_equal(fit_text_positions(given, 17), given)


def test_a_shorter_context_keeps_the_first_positions():
    given = rows(9)
    np.testing.assert_array_equal(fit_text_positions(given, 4), given[:4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_text_positions(rows(9), 10),
            "context_length=10 is more than the 9 positions of the weights: use at most 9",
        ),
        (
            lambda: fit_image_positions(rows(16), 48, 8, True, 32),
            "15 position embeddings after the class token's are not the 16 of images of 32 x 32 pixels",
        ),
        (lambda: fit_image_positions(rows(15), 48, 8, False, (32, 16)), "are not the 8 of images of 32 x 16 pixels"),
    ],
)
def test_sizes_that_do_not_fit(call, message):
    with pytest.raises(UserError, match=message):
        call()
