"""Images in folders: one folder per class, or images with a text file beside each.

    animals/red_fox/001.jpg         class "red fox": captions are made by config.data.templates
    animals/red_fox/wild/002.jpg    the same class, at any depth
    animals/class_names.tsv         optional: "n02119022<TAB>red fox" for folders with other names
    scans/001.jpg, scans/001.txt    flat: the text file has the caption of the image

The classes are the top-level folders, in sorted order. Several locations are merged.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.class_names import class_names_of
from rankclip_jax.data.sources.labels import class_captions
from rankclip_jax.data.sources.strings import packed, text_of, update
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """List the images in some folders; `UserError` if one is not a local folder, or there are no images or captions."""
    for folder in files:
        if locations.is_url(folder) or not os.path.isdir(folder):
            raise UserError(f"{folder} is not a local folder: format image_folder reads folders of images.")
    found = sorted({(name, folder) for folder in files for name in _images(folder)})
    if not found:
        raise UserError(f"no images in {', '.join(files)}: format image_folder reads files {', '.join(IMAGES)}.")
    names, paths = packed(name for name, _ in found), packed(os.path.join(folder, name) for name, folder in found)
    flat = [name for name, _ in found if os.sep not in name]
    if not flat:
        folders = [name.split(os.sep, 1)[0] for name, _ in found]
        codes = sorted(set(folders))
        label = {code: index for index, code in enumerate(codes)}
        labels = np.array([label[folder] for folder in folders])
        return ClassPairs(names, paths, labels, class_names_of(codes, files, files[0]), options.templates)
    if len(flat) < len(found):
        raise UserError(
            f"{files[0]} holds folders, and images beside them such as {flat[0]}: move these images to a folder."
        )
    if not any(locations.exists(_text_file(os.path.join(folder, name))) for name, folder in found):
        raise UserError(
            f"{files[0]} holds images such as {flat[0]} without captions: make a folder per class, or put a text file "
            "with captions beside each image."
        )
    return FlatPairs(names, paths)


class _Images(PairSource):
    """Images with their names (relative to a location) and paths."""

    def __init__(self, names: pa.LargeBinaryArray, paths: pa.LargeBinaryArray):
        self._names, self._paths = names, paths

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        return self._names[index].as_py().decode("utf-8", "backslashreplace")

    def image_bytes(self, index: int) -> bytes:
        return locations.read(text_of(self._paths, index))


class FlatPairs(_Images):
    """Images with a text file beside each."""

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(locations.read(_text_file(text_of(self._paths, index))))

    def digest(self) -> str:
        """Covers names of images and sizes of text files."""
        sha = hashlib.sha256()
        update(sha, self._names)
        for index in range(len(self)):
            text = _text_file(text_of(self._paths, index))
            sha.update(repr(locations.size(text) if locations.exists(text) else None).encode())
        return sha.hexdigest()


class ClassPairs(_Images):
    """Images in a folder per class; `labels`: int [n]."""

    def __init__(
        self,
        names: pa.LargeBinaryArray,
        paths: pa.LargeBinaryArray,
        labels: np.ndarray,
        class_names: tuple[str, ...],
        templates: Sequence[str],
    ):
        super().__init__(names, paths)
        self._labels, self.class_names = labels, class_names
        self._captions = class_captions(class_names, templates)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self._labels[index]]

    def digest(self) -> str:
        """Covers names of images, and captions."""
        sha = hashlib.sha256(repr(self._captions).encode())
        update(sha, self._names)
        return sha.hexdigest()


def _images(folder: str) -> Iterator[str]:
    """Paths of the images below `folder`, relative to it."""
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = "" if base == folder else os.path.relpath(base, folder)
        for name in files:
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                yield os.path.join(inside, name)


def _text_file(path: str) -> str:
    """The text file beside an image."""
    return f"{os.path.splitext(path)[0]}.txt"
