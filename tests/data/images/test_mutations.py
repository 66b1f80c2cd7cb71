"""Mutated image files: each is an image or an `ImageError` of one line, in little memory; never another exception."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.commands.validate import _unusual
from rankclip_jax.data.images.decode import ImageError, decode, open_image
from rankclip_jax.data.images.resize import parse_resize
from tests.support.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "AVIF")
MODES = ("RGB", "RGBA", "L", "P", "1", "CMYK", "LA", "I;16", "F", "I")
RESIZES = tuple(map(parse_resize, ("crop", "crop,open_clip", "squash,transformers", "crop,20,bilinear,transformers")))
NUMBERS = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")


def originals():
    """Encoded images of every format in every mode that it has."""
    pixels = np.random.RandomState(0).randint(0, 256, (20, 28, 3)).astype(np.uint8)
    found = []
    for mode in MODES:
        deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        image = deep if mode == "I;16" else Image.fromarray(pixels).convert(mode)
        for format_ in FORMATS:
            buffer = io.BytesIO()
            try:
                image.save(buffer, format_)
            except (OSError, ValueError, KeyError):  # the format has no such mode, or Pillow lacks a codec
                continue
            found.append(buffer.getvalue())
    return found


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        start = rng.randrange(len(data) if rng.random() < 0.3 else min(len(data), 120)) if data else 0
        change = rng.randrange(4)
        if change == 0:
            data[start : start + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            data[start : start + 4] = rng.choice(NUMBERS)
        elif change == 2:
            data[start:start] = rng.randbytes(rng.randrange(9))
        elif rng.random() < 0.3:
            del data[start:]
    return bytes(data)


def use(data):
    """Everything that commands do with an image file."""
    _unusual(open_image(data))
    image = decode(data)
    for resize in RESIZES:
        assert resize(image, 16).shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged tags
@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_files(count):
    rng, files, good, limits = random.Random(count), originals(), 0, Limits()
    assert len(files) > 60
    for data in files:
        with_errors = (ImageError,) if data[:2] in (b"II", b"Pf") else ()  # floats and integers of 32 bits
        try:
            use(data)
        except with_errors as error:
            assert error.kind == "unknown range"
    for number in range(count):
        data = mutated(rng.choice(files), rng)
        try:
            with limits.of(number):
                use(data)
            good += 1
        except ImageError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 500
    assert count / 5 < good < count
    limits.show()
