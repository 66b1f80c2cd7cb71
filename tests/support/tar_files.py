"""Tars as img2dataset writes them, of small images that differ by their number."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def image(number: int, side: int = 16, format_: str = "JPEG") -> bytes:
    """An encoded image of four coloured squares."""
    colours = np.random.default_rng(number).integers(0, 256, (2, 2, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours.repeat(side // 2, 0).repeat(side // 2, 1)).save(file, format_)
    return file.getvalue()


def sample(number: int, data: bytes | None = None) -> list[tuple[str, bytes]]:
    """The three members of pair `number`, in img2dataset's order."""
    key, caption = f"{number:09d}", f"number {number}"
    about = {"caption": caption, "key": key, "status": "success", "other": {"long": [f"the image {number}", "it"]}}
    content = image(number) if data is None else data
    return [(f"{key}.jpg", content), (f"{key}.json", json.dumps(about).encode()), (f"{key}.txt", caption.encode())]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], format_: int = tarfile.USTAR_FORMAT) -> Path:
    """Write files with the given names and contents."""
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, counts: Sequence[int], broken: Sequence[int] = (), first: int = 0) -> list[str]:
    """Write shards 00000.tar ... with `counts` pairs; the images with a number in `broken` are cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    files, number = [], 0
    for shard, count in enumerate(counts, first):
        members = []
        for _ in range(count):
            members += sample(number, image(number)[:300] if number in broken else None)
            number += 1
        files.append(str(write_tar(folder / f"{shard:05d}.tar", members)))
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": count, "successes": count}))
    return files
