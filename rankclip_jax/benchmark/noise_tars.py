"""Tars like those of img2dataset, with noise images. Their files are as large as files of photographs."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rankclip_jax.errors import UserError

SHARDS = 4
DISTINCT = 200  # images; further pairs repeat them
SLOPE = 1.6  # amplitudes are proportional to 1 / frequency^SLOPE; files have about 40 kB at 256-384 pixels
GREY, COLOUR = 55, 10  # standard deviations
QUALITY = 95  # the default of img2dataset
WORDS = ("a", "the", "dog", "cat", "house", "on", "in", "red", "photo", "of", "street", "with", "man", "water", "light")


def read_sides(text: str) -> tuple[int, int]:
    """Parse "256-384" as (256, 384) and "256" as (256, 256)."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 8 <= low <= high:
        raise UserError(f"--pixels={text}: expected the lowest and the highest side, such as 256-384.")
    return low, high


def write_tars(folder: Path, count: int, sides: tuple[int, int]) -> str:
    """Write `count` pairs into the folder, the same pairs in each call; return the location of the tars."""
    rng = np.random.default_rng(0)
    images = make_images(rng, min(count, DISTINCT), sides)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(shard, count, SHARDS):
                key, caption = f"{shard:05d}{i:04d}", " ".join(rng.choice(WORDS, rng.integers(5, 15)))
                metadata = json.dumps({"caption": caption, "key": key, "status": "success"}).encode()
                data = images[i % len(images)]
                for extension, content in (("jpg", data), ("json", metadata), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return str(folder / f"{{{0:05d}..{SHARDS - 1:05d}}}.tar")


def make_images(rng: np.random.Generator, count: int, sides: tuple[int, int]) -> list[bytes]:
    """Return JPEG files of noise images; their sides are drawn from the range `sides`."""
    bar = tqdm(range(count), desc="making images", leave=False, disable=None, delay=1)
    return [_encoded(_noise(rng, *rng.integers(sides[0], sides[1] + 1, 2).tolist())) for _ in bar]


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return uint8 [H, W, 3] with strong variation in grey and weak variation in colour."""
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = np.maximum(np.hypot(down, right), 1 / max(height, width)) ** -SLOPE
    layers = []
    for strength in (GREY, COLOUR, COLOUR):
        spectrum = falling * np.exp(2j * np.pi * rng.random(falling.shape))
        layer = np.fft.irfft2(spectrum, (height, width))
        layers.append(strength * layer / layer.std())
    grey, red, blue = layers[0] + 128, *layers[1:]
    return np.clip(np.stack([grey + red, grey - 0.5 * (red + blue), grey + blue], -1), 0, 255).astype(np.uint8)


def _encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
