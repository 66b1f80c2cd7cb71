"""Paths of images in tables."""

import os

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.storage import locations


def join(folder: str, path: str) -> str:
    """`path` relative to `folder`, unless it is a URL or absolute."""
    if locations.is_url(path) or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}"


def image_folder(options: PairOptions, default: str) -> str:
    """The folder that image paths are relative to: `image_root`, relative to `root`; `default` if it is ""."""
    folder = os.path.expanduser(options.image_root)
    if not folder:
        return default
    return join(os.path.expanduser(options.root), folder) if options.root else folder
