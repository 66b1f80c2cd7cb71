"""Images of odd sizes and of every mode, and open_clip's settings whose results `make_preprocessing` stored."""

from pathlib import Path

import numpy as np
from PIL import Image

FILE = Path(__file__).parent / "preprocessing.npz"
SQUARE, WIDE = 16, (12, 20)  # the second is (height, width)
SIZES = {"wide": (45, 31), "tall": (31, 45), "odd": (40, 41), "same": (16, 16), "small": (7, 10), "strip": (130, 9)}
MODES = ("RGB", "RGBA", "LA", "L", "P", "P transparent", "1", "CMYK")
SETTINGS = {
    "default": ({}, SQUARE),
    "bilinear": ({"interpolation": "bilinear"}, SQUARE),
    "squash": ({"resize_mode": "squash"}, SQUARE),
    "squash bilinear": ({"resize_mode": "squash", "interpolation": "bilinear"}, SQUARE),
    "not square": ({}, WIDE),
    "not square bilinear": ({"interpolation": "bilinear"}, WIDE),  # open_clip resizes bicubic all the same
    "not square squash bilinear": ({"resize_mode": "squash", "interpolation": "bilinear"}, WIDE),
}
# (settings, mode, size): every mode once for each size of interest, every setting for every size.
CASES = [("default", mode, size) for mode in MODES for size in ("wide", "odd", "same")]
CASES += [(name, "RGB", size) for name in SETTINGS for size in SIZES]
CASES += [("squash bilinear", mode, "tall") for mode in MODES] + [("not square", mode, "tall") for mode in MODES]


def image(mode: str, size: tuple[int, int]) -> Image.Image:
    """A random image with patches of 3 pixels; a third of the transparent ones is invisible."""
    width, height = size
    random = np.random.RandomState(width * 1000 + height)
    shape = (height // 3 + 1, width // 3 + 1)
    patches = random.randint(0, 256, (*shape, 4)).astype(np.uint8)
    patches[..., 3] = np.where(random.rand(*shape) < 1 / 3, 0, patches[..., 3])
    pixels = patches.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    if mode.startswith("P"):
        made = Image.fromarray(pixels[..., 0] % 32)
        made.putpalette(np.random.RandomState(1).randint(0, 256, 96).astype(np.uint8).tobytes())
        if mode != "P":
            made.info["transparency"] = bytes(range(0, 256, 8))
        return made
    if mode == "1":
        return Image.fromarray(pixels[..., 0]).convert("1", dither=Image.Dither.NONE)
    bands = {"RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3], "LA": [0, 3], "L": 0, "CMYK": [0, 1, 2, 3]}[mode]
    chosen = np.ascontiguousarray(pixels[..., bands])
    return Image.merge(mode, [Image.fromarray(band) for band in np.moveaxis(chosen.reshape(height, width, -1), 2, 0)])
