"""Preprocessor files: read as the other library reads them, or refused. No weights are needed."""

import json

import numpy as np
import pytest
from transformers import AutoImageProcessor

from rankclip_jax.data.images.resize import parse_resize
from rankclip_jax.errors import UserError
from rankclip_jax.models.pixels import PIXEL_MEAN, normalize_pixels
from rankclip_jax.weights.formats.preprocessing import read_preprocess_cfg
from rankclip_jax.weights.formats.processors import PROCESSOR_FILES, read_preprocessor, write_preprocessor
from tests.golden.preprocessing import MODES, SIZES, image

SIDE = 16
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
SQUARE = {"height": 16, "width": 16}
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": SQUARE}
READ = {
    "clip": CLIP,
    "siglip": SIGLIP,
    "fast": CLIP | {"image_processor_type": "CLIPImageProcessorFast"},
    "feature extractor": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 16, "crop_size": 16},
    "bilinear": SIGLIP | {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "nearest": CLIP | {"resample": 0},
    "lanczos": CLIP | {"resample": 1},
    "box": SIGLIP | {"resample": 4},
    "hamming": SIGLIP | {"resample": 5},
    "resize to 21": CLIP | {"size": 21},
    "resize to 18, bilinear": CLIP | {"size": {"shortest_edge": 18}, "resample": 2},
    "squash to 19": CLIP | {"size": [19, 19], "crop_size": {"height": 16, "width": 16}},
    "squash and crop": CLIP | {"size": SQUARE, "do_center_crop": True},
    "no crop of a square": CLIP | {"size": SQUARE, "do_center_crop": False},
    "default to square": CLIP | {"size": 16, "default_to_square": True, "do_center_crop": False},
    "rescale with offset": SIGLIP | {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    "rescale": CLIP | {"rescale_factor": 1 / 127.5},
    "no rescale": CLIP | {"do_rescale": False, "image_mean": [127.5, 120, 110], "image_std": [60, 61, 62]},
    "no normalisation": CLIP | {"do_normalize": False},
    "neither": SIGLIP | {"do_normalize": False, "do_rescale": False},
    "one mean": CLIP | {"image_mean": 0.4, "image_std": 0.3},
    "switches that are null": SIGLIP | {"do_normalize": None, "do_center_crop": None, "do_pad": None},
}


def written(folder, given, name=PROCESSOR_FILES[1]):
    (folder / name).write_text(json.dumps(given))
    return folder


def assert_same_pixels(folder, kind):
    found = read_preprocessor(folder, kind, SIDE)
    resize, theirs = parse_resize(found["resize"]), AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [image("RGB", size) for size in SIZES.values()]
    images += [image(mode, SIZES[size]) for mode in MODES for size in ("wide", "odd")]
    resized = np.stack([resize(one, SIDE) for one in images])
    ours = normalize_pixels(resized, found["pixel_mean"], found["pixel_std"]).transpose(0, 3, 1, 2)
    expected = np.stack([theirs(one, return_tensors="np")["pixel_values"][0] for one in images])
    np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", READ)
def test_pixels_equal_those_of_transformers(tmp_path, name):
    """In every mode and for odd sizes; the other library reads the same file."""
    kind = "siglip" if "Siglip" in str(READ[name].get("image_processor_type")) else "clip"
    assert_same_pixels(written(tmp_path, READ[name]), kind)


def test_nulls_are_the_defaults_of_older_versions(tmp_path):
    expected = read_preprocessor(written(tmp_path, CLIP), "clip", SIDE)
    nulls = dict.fromkeys(("size", "crop_size", "image_mean", "image_std", "rescale_factor", "do_convert_rgb"))
    assert read_preprocessor(written(tmp_path, CLIP | nulls), "clip", SIDE) == expected


def test_a_file_of_the_whole_processor_comes_first(tmp_path):
    nested = {"image_processor": CLIP | {"resample": 2}, "processor_class": "CLIPProcessor"}
    written(tmp_path, nested, PROCESSOR_FILES[0])
    assert_same_pixels(written(tmp_path, CLIP | {"resample": 0}), "clip")
    assert read_preprocessor(tmp_path, "clip", SIDE)["resize"] == "crop,bilinear,transformers"
    written(tmp_path, {"processor_class": "CLIPProcessor"}, PROCESSOR_FILES[0])
    assert read_preprocessor(tmp_path, "clip", SIDE)["resize"] == "crop,nearest,transformers"


def test_models_of_images_that_are_not_square(tmp_path):
    squash = {"size": {"height": 12, "width": 20}, "do_center_crop": False}
    assert read_preprocessor(written(tmp_path, CLIP | squash), "clip", (12, 20))["resize"] == "squash,transformers"
    assert read_preprocessor(written(tmp_path, {}), "siglip", (12, 20))["resize"] == "squash,transformers"
    crop = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 20}}
    with pytest.raises(UserError, match=r"not supported with a crop of"):
        read_preprocessor(written(tmp_path, CLIP | crop), "clip", (12, 20))


@pytest.mark.parametrize(("kind", "fit"), [("clip", "crop"), ("siglip", "squash")])
def test_defaults_without_a_file(tmp_path, kind, fit):
    found = read_preprocessor(tmp_path, kind, SIDE)
    assert found["resize"] == f"{fit},transformers"
    written(tmp_path, CLIP if kind == "clip" else SIGLIP)
    assert read_preprocessor(tmp_path, kind, SIDE) == found


@pytest.mark.parametrize("resize", ["crop", "squash,bilinear", "crop,21,lanczos,transformers", "squash,20"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_written_file_is_read_back(tmp_path, kind, resize):
    given = {"image_size": SIDE, "pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.4, 0.5, 0.6), "resize": resize}
    written(tmp_path, write_preprocessor(given, kind))
    found = read_preprocessor(tmp_path, kind, SIDE)
    assert {**found, "image_size": SIDE, "resize": ""} == {**given, "resize": ""}
    assert found["resize"].removesuffix(",transformers") == resize.removesuffix(",transformers")
    assert_same_pixels(tmp_path, kind)


REFUSED = {
    "no resize": (CLIP | {"do_resize": False}, "has do_resize=false: it must be true"),
    "null as do_resize": (CLIP | {"do_resize": None}, "has do_resize=null: it must be true"),
    "null as do_center_crop": (CLIP | {"do_center_crop": None}, "resizes the shorter edge and does not crop"),
    "null as resample": (CLIP | {"resample": None}, "has resample=None: it must be one of"),
    "padding": (CLIP | {"do_pad": True}, "has do_pad=true: it must be false"),
    "resample": (CLIP | {"resample": 9}, r"has resample=9: it must be one of 0 \(nearest\), 1 \(lanczos\), 2"),
    "a word": (CLIP | {"resample": "bicubic"}, "has resample='bicubic'"),
    "shorter edge, no crop": (CLIP | {"do_center_crop": False}, "resizes the shorter edge and does not crop"),
    "a number for siglip": (SIGLIP | {"size": 16}, "resizes the shorter edge and does not crop"),
    "longest edge": (CLIP | {"size": {"longest_edge": 16}}, "supported are shortest_edge, and height with width"),
    "both edges": (CLIP | {"size": {"shortest_edge": 16, "longest_edge": 20}}, "supported are shortest_edge"),
    "not square": (
        SIGLIP | {"size": {"height": 16, "width": 24}},
        "makes images of .*, but the model reads 16 x 16",
    ),
    "other size": (
        SIGLIP | {"size": {"height": 20, "width": 20}},
        "but the model reads 16 x 16 pixels: change its size",
    ),
    "other crop": (CLIP | {"crop_size": 20, "size": 20}, "but the model reads 16 x 16 pixels: change its size"),
    "small": (CLIP | {"size": 12}, "not supported with a crop of .*: use a larger square size"),
    "text as size": (CLIP | {"size": "16"}, "use a larger square size"),
    "two means": (CLIP | {"image_mean": [0.5, 0.5]}, r"has image_mean=\[0.5, 0.5\]: it must be one number, or three"),
    "endless mean": (CLIP | {"image_mean": float("inf")}, "has image_mean=inf: it must be one number"),
    "text as mean": (CLIP | {"image_mean": "0.5"}, "has image_mean='0.5'"),
    "zero factor": (CLIP | {"rescale_factor": 0}, "has rescale_factor=0: it must be a positive number"),
    "class": (CLIP | {"image_processor_type": "ViTImageProcessor"}, "has image_processor_type='ViTImageProcessor'"),
    "flexible": (SIGLIP | {"image_processor_type": "Siglip2ImageProcessor"}, "supported are CLIPImageProcessor and"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    given, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        read_preprocessor(written(tmp_path, given), "siglip" if "Siglip" in str(given) else "clip", SIDE)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


OPEN_CLIP = {
    "interpolation": (
        {"interpolation": "nearest"},
        "has interpolation='nearest' and resize_mode='shortest': supported",
    ),
    "longest": ({"resize_mode": "longest"}, "supported are bicubic, bilinear, random, and shortest or squash"),
    "list": ({"resize_mode": ["squash"]}, r"resize_mode=\['squash'\]"),
    "mean": ({"mean": [0.5]}, r"has mean=\[0.5\]: it must be one number, or three"),
    "no object": ([], r"has preprocess_cfg=\[\]"),
}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_what_is_refused_of_open_clip(name):
    given, message = OPEN_CLIP[name]
    with pytest.raises(UserError, match=message):
        read_preprocess_cfg(given, "a.json", SIDE)


def test_nulls_and_single_numbers_of_open_clip():
    given = {"mean": None, "std": 0.5, "interpolation": None, "size": [9, 9]}
    expected = {"pixel_mean": PIXEL_MEAN, "pixel_std": (0.5,) * 3, "resize": "crop,open_clip"}
    assert read_preprocess_cfg(given, "a.json", SIDE) == expected
