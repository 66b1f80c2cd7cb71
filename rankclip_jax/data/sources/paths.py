"""Paths of images in tables."""

import os

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.storage import locations

MAX_BYTES = 256 << 20  # of an encoded image


def join(folder: str, path: str) -> str:
    """`path` relative to `folder`, unless it is a URL or absolute."""
    if "://" in path or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}"


def read_image(folder: str, path: str) -> bytes:
    r"""The encoded image at a path relative to `folder`. Backslashes separate folders if no file has them in its name.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be read, or has more than `MAX_BYTES`.
    """
    whole = join(folder, path)
    try:
        return locations.read(whole, MAX_BYTES)
    except FileNotFoundError:
        if "\\" not in path:
            raise
    return locations.read(join(folder, path.replace("\\", "/")), MAX_BYTES)


def image_folder(options: PairOptions, default: str) -> str:
    """The folder that image paths are relative to: `image_root`, relative to `root`; `default` if it is ""."""
    folder = locations.resolved(options.image_root)
    if not folder:
        return default
    return join(locations.resolved(options.root), folder) if options.root else folder
