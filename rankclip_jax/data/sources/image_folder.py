"""Images in folders: one folder for each class, or images with a text file beside each.

    animals/red_fox/001.jpg         a class, "red fox": captions by config.data.templates
    animals/red_fox/wild/002.jpg    the same class, at any depth
    animals/class_names.tsv         optional: "n02119022<TAB>red fox" for folders with other names
    scans/001.jpg, scans/001.txt    flat: the lines of the text file are the captions of the image

Classes are the folders that a location names, in sorted order; those of several locations are put together.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.labels import class_captions, in_words
from rankclip_jax.data.sources.strings import Strings
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
CLASS_NAMES = "class_names.tsv"


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """List the images in some folders.

    Raises:
      UserError: what is named is no local folder, holds no images, or images that have no caption.
    """
    for folder in files:
        if locations.is_url(folder) or not os.path.isdir(folder):
            raise UserError(f"{folder} is no local folder: image_folder reads folders of images.")
    found = sorted({(name, folder) for folder in files for name in _images(folder)})
    if not found:
        raise UserError(f"no images in {', '.join(files)}: files that end with {', '.join(IMAGES)} are looked for.")
    paths = Strings.of(os.path.join(folder, name) for name, folder in found)
    names = Strings.of(name for name, _ in found)
    flat = [name for name, _ in found if os.sep not in name]
    if not flat:
        return ClassPairs(names, paths, _class_names(files, [name for name, _ in found]), options.templates)
    if len(flat) < len(found):
        raise UserError(f"{files[0]} holds folders, and images beside them such as {flat[0]}: move those into one.")
    if not any(locations.exists(_beside(path.decode("utf-8", "surrogateescape"))) for path in paths):
        raise UserError(
            f"{files[0]} holds images such as {flat[0]} without a caption: put them into a folder for each class, "
            "or put a text file with its captions beside each."
        )
    return FlatPairs(names, paths)


class _Images:
    """What both kinds share; see `PairSource`."""

    def __init__(self, names: Strings, paths: Strings):
        self._names, self._paths = names, paths

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        return self._names[index].decode("utf-8", "backslashreplace")

    def image_bytes(self, index: int) -> bytes:
        return locations.read(self._paths.text(index))


class FlatPairs(_Images):
    """Images with a text file beside each."""

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(locations.read(_beside(self._paths.text(index))).splitlines())

    def digest(self) -> str:
        sha = hashlib.sha256()
        self._names.update(sha)
        for path in self._paths:
            text = _beside(path.decode("utf-8", "surrogateescape"))
            sha.update(repr(locations.size(text) if locations.exists(text) else None).encode())
        return sha.hexdigest()


class ClassPairs(_Images):
    """Images in a folder for each class.

    Attributes:
      class_names: in words, by the order of the folders.
    """

    def __init__(self, names: Strings, paths: Strings, classes: dict[str, str], templates: Sequence[str]):
        super().__init__(names, paths)
        self.class_names = tuple(classes.values())
        self._captions = class_captions(self.class_names, templates)
        number = {folder: label for label, folder in enumerate(classes)}
        self._labels = np.array([number[_folder_of(name.decode("utf-8", "surrogateescape"))] for name in names])

    def label(self, index: int) -> int:
        """Its class, an index into `class_names`."""
        return int(self._labels[index])

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self._labels[index]]

    def digest(self) -> str:
        sha = hashlib.sha256(repr(self._captions).encode())
        self._names.update(sha)
        return sha.hexdigest()


def _images(folder: str) -> Iterator[str]:
    """Paths of the images below `folder`, relative to it."""
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = "" if base == folder else os.path.relpath(base, folder)
        for name in files:
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                yield os.path.join(inside, name)


def _folder_of(name: str) -> str:
    return name.split(os.sep, 1)[0]


def _beside(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.txt"


def _class_names(files: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Names in words by folder, sorted."""
    given: dict[str, str] = {}
    for folder in files:
        path = os.path.join(folder, CLASS_NAMES)
        if locations.exists(path):
            lines = locations.read(path).decode("utf-8", "replace").splitlines()
            given |= dict(line.split("\t", 1) for line in lines if "\t" in line)
    return {folder: given.get(folder, in_words(folder)) for folder in sorted({_folder_of(name) for name in names})}
