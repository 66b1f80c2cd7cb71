"""Paths of images in tables."""

import os
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.storage import locations

MAX_BYTES = 256 << 20  # of an encoded image


def join(folder: str, path: str) -> str:
    """`path` relative to `folder`, unless it is a URL or absolute."""
    if "://" in path or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}"


def read_image(folder: str, path: str) -> bytes:
    r"""The encoded image at a path relative to `folder`; if there is no such file, at another of its `spellings`.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the file cannot be read, or has more than `MAX_BYTES`.
    """
    whole = join(folder, path)
    try:
        return locations.read(whole, MAX_BYTES)
    except FileNotFoundError:
        found = next((other for other in spellings(path) if locations.exists(join(folder, other))), None)
        if found is None:
            raise
    return locations.read(join(folder, found), MAX_BYTES)


def spellings(original: str) -> Iterator[str]:
    """Other ways to write the path of a local file, without spaces around it.

    Backslashes separate folders, ``%20`` is a space, ``~`` the home folder, and letters with accents are composed or,
    as macOS writes them, decomposed.
    """
    if locations.is_url(original):
        return
    path = original.strip()
    forms = (path, path.replace("\\", "/"), unquote(path), os.path.expanduser(path))
    forms = (unicodedata.normalize(form, other) for other in forms for form in ("NFC", "NFD"))
    yield from (form for form in dict.fromkeys(forms) if form != original)


def image_folder(options: PairOptions, default: str) -> str:
    """The folder that image paths are relative to: `image_root`, relative to `root`; `default` if it is ""."""
    folder = locations.resolved(options.image_root)
    if not folder:
        return default
    return join(locations.resolved(options.root), folder) if options.root else folder
