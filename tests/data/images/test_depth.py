"""Images of more than 8 bits per channel: right where the range is known, refused where it is not."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from rankclip_jax.data.images.decode import ImageError, decode
from rankclip_jax.data.images.depth import eight_bits
from rankclip_jax.data.images.resize import resize_and_crop

GREY = (np.sin(np.arange(96 * 64).reshape(64, 96) / 700) + 1) / 2  # in [0, 1]
TWIN = np.floor(GREY * 255.999).astype(np.uint8)
FULL = np.floor(GREY * 65535.999).astype(np.uint16)


def encoded(image, format_, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def big_endian():
    return Image.frombytes("I;16B", (96, 64), FULL.astype(">u2").tobytes())


def white_is_zero():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    return encoded(Image.fromarray(~FULL), "TIFF", tiffinfo=tags)


def twelve_bits():
    """A TIFF of 12 bits per value, which Pillow reads but does not write: two values in three bytes."""
    values = (FULL >> 4).astype(np.uint32).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
    data = packed.astype(np.uint8).tobytes()
    entries = (
        (256, 3, 96),
        (257, 3, 64),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (277, 3, 1),
        (278, 3, 64),
    )
    entries += ((279, 4, len(data)),)
    start = 8 + 2 + 12 * len(entries) + 4
    header = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        value = start if tag == 273 else value
        header += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        header += value.to_bytes(4, "little")
    return header + bytes(4) + data


def pgm(maximum):
    values = np.rint(GREY * maximum).astype(">u2")
    return f"P5 96 64 {maximum}\n".encode() + values.tobytes()


KNOWN = {
    "png": lambda: encoded(FULL, "PNG"),
    "tiff": lambda: encoded(FULL, "TIFF"),
    "compressed tiff": lambda: encoded(FULL, "TIFF", compression="tiff_deflate"),
    "big-endian tiff": lambda: encoded(big_endian(), "TIFF"),
    "tiff with white as zero": white_is_zero,
    "tiff of 12 bits": twelve_bits,
    "jpeg 2000": lambda: encoded(FULL, "JPEG2000"),
    "pgm": lambda: pgm(65535),
    "pgm of 10 bits": lambda: pgm(1023),
}


@pytest.mark.parametrize("name", KNOWN)
def test_grey_of_a_known_range_equals_its_twin_of_8_bits(name):
    image = decode(KNOWN[name]())
    assert image.mode == "L" and image.format is None
    assert np.abs(np.asarray(image).astype(int) - TWIN).max() <= 1
    found, twin = (resize_and_crop(one, 32).astype(float).ravel() for one in (image, Image.fromarray(TWIN)))
    assert found @ twin / np.linalg.norm(found) / np.linalg.norm(twin) > 0.9999


UNKNOWN = {
    "integers": np.asarray(FULL, np.int32),
    "floats in 0 ... 1": np.asarray(GREY, np.float32),
    "floats in 0 ... 255": np.asarray(GREY * 255, np.float32),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_range_is_refused(name):
    with pytest.raises(ImageError, match=r"TIFF of mode (I, integers|F, floats) of any size") as caught:
        decode(encoded(UNKNOWN[name], "TIFF"))
    assert caught.value.kind == "unknown range"
    with pytest.raises(ImageError, match=r"unknown range: image of mode [IF]"):
        eight_bits(Image.fromarray(UNKNOWN[name]))


def test_signed_integers_and_other_colour_spaces_are_refused():
    lab = Image.merge("LAB", [Image.fromarray(TWIN)] * 3)
    with pytest.raises(ImageError, match="TIFF of mode LAB"):
        decode(encoded(lab, "TIFF"))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[339] = 2  # sample format: signed
    with pytest.raises(ImageError, match="unknown range"):
        decode(encoded(FULL, "TIFF", tiffinfo=tags))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "CMYK", "1", "YCbCr", "HSV"])
def test_images_of_8_bits_are_returned_as_they_are(mode):
    image = Image.fromarray(TWIN).convert(mode)
    assert eight_bits(image) is image
