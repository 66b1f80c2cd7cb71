"""Paths of images as tables have them."""

import os

from rankclip_jax.data.storage import locations


def join(folder: str, path: str) -> str:
    """`path` relative to `folder`, unless it is a URL or absolute."""
    if locations.is_url(path) or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}"
