"""Images in folders: with captions beside them, in tables beside them, or in one folder per class.

    scans/00/001.jpg, scans/00/001.txt       the text file has the caption of the image; also 001.caption, 001.json
    photos/1.jpg, photos/metadata.jsonl      a table of captions: `image_metadata`
    animals/red_fox/001.jpg                  class "red fox": captions are made by config.data.templates
    animals/red_fox/wild/002.jpg             the same class, at any depth
    animals/class_names.tsv                  optional: "n02119022<TAB>red fox" for folders with other names

The classes are the top-level folders, in sorted order. Folders that are named like splits (train, val ...) are splits,
and the location names one: ``image_folder:animals#train``. Several folders of one location are merged.
"""

import hashlib
import logging
import os
from collections.abc import Sequence

import numpy as np

from rankclip_jax.data.images.extensions import SUFFIXES
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.class_names import class_names_of
from rankclip_jax.data.sources.image_files import ImageFile, extensions_of, have_captions, images_in, read_captions
from rankclip_jax.data.sources.image_hints import other_captions
from rankclip_jax.data.sources.image_metadata import below, open_tables, tables_in
from rankclip_jax.data.sources.image_splits import inside, split_folder, wrapping_folder
from rankclip_jax.data.sources.labels import class_captions
from rankclip_jax.data.sources.paths import read_image
from rankclip_jax.data.sources.strings import packed, text_of, update
from rankclip_jax.data.storage import locations
from rankclip_jax.data.storage.folders import names_below
from rankclip_jax.data.storage.split_names import is_split, known_split
from rankclip_jax.errors import UserError

LOG = logging.getLogger(__name__)
HINT = "if it holds captions, use format csv, jsonl or coco, or put text files beside the images"


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """List the images in some folders.

    Raises:
      UserError: one is not a local folder, there are no images or captions, or several splits and none is named.
    """
    for folder in files:
        if locations.is_url(folder) or not os.path.isdir(folder):
            raise UserError(f"{folder} is not a local folder: format image_folder reads folders of images.")
    images = sorted({image for folder in files for image in images_in(folder, extensions_of(options.caption_key))})
    if not images:
        known = ", ".join(SUFFIXES)
        raise UserError(f"no images in {', '.join(files)}: format image_folder reads files {known}.")
    split = split_folder(images, options.split, files[0])
    images = inside(images, split)
    if tables := [table for folder in files for table in tables_in(folder)]:
        return _of_tables(tables, files, split, options, len(images))
    if have_captions(images, options.caption_key):
        return CaptionedImages(images, options)
    if found := other_captions(files, images):
        LOG.warning("%s names images, but captions are made of the names of folders: %s", found, HINT)
    wrapping = wrapping_folder(images)
    homes = dict.fromkeys(os.path.join(folder, *part) for part in ((), (split,), (split, wrapping)) for folder in files)
    return _class_pairs(list(homes), inside(images, wrapping), options.templates)


def _of_tables(
    tables: Sequence[str], files: Sequence[str], split: str, options: PairOptions, num_images: int
) -> PairSource:
    """The pairs of the tables in the folder of a split, or of those above it, whose other pairs are left out."""
    folders = [os.path.join(folder, split) for folder in files]
    own = [table for table in tables if any(table.startswith(os.path.join(folder, "")) for folder in folders)]
    if own:
        return open_tables(own, folders, options, num_images)
    return below(open_tables(tables, files, options, num_images), split)


def _class_pairs(homes: Sequence[str], images: Sequence[ImageFile], templates: Sequence[str]) -> "ClassPairs":
    """One class per top-level folder, named by files in the folders `homes`.

    Raises:
      UserError: images are beside folders, or there is only one class, or a class has no name.
    """
    flat = [image.name for image in images if os.sep not in image.name]
    if 0 < len(flat) < len(images):
        raise UserError(
            f"{homes[0]} holds folders, and images beside them such as {flat[0]}: move these images to a folder."
        )
    folders = [image.name.split(os.sep, 1)[0] for image in images]
    if flat or len(set(folders)) == 1:
        raise UserError(
            f"{homes[0]} holds images such as {images[0].name} without captions or classes: put a text file with "
            "captions beside each image, or make a folder per class, or name a table of captions (format csv)."
        )
    splits = {name for image in images for name in image.name.split(os.sep)[1:-1] if is_split(name)}
    if len(set(map(known_split, splits))) > 1:
        found = ", ".join(sorted(splits))
        LOG.warning("%s: classes hold folders of several splits (%s), which are merged", homes[0], found)
    codes = sorted(set(folders))
    label = {code: index for index, code in enumerate(codes)}
    labels = np.array([label[folder] for folder in folders])
    return ClassPairs(images, labels, class_names_of(codes, homes, homes[0]), templates)


class _Images(PairSource):
    """Images with keys and paths. Keys are relative to the folder, or to the folder that holds all folders."""

    def __init__(self, images: Sequence[ImageFile]):
        paths = [os.path.join(image.folder, image.name) for image in images]
        several = len({image.folder for image in images}) > 1
        self._names = packed(names_below(paths) if several else (image.name for image in images))
        self._paths = packed(paths)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        return self._names[index].as_py().decode("utf-8", "backslashreplace")

    def image_bytes(self, index: int) -> bytes:
        return read_image("", text_of(self._paths, index))


class CaptionedImages(_Images):
    """Images with a caption file beside each."""

    def __init__(self, images: Sequence[ImageFile], options: PairOptions):
        super().__init__(images)
        self._caption_key, self._second_key = options.caption_key, options.second_caption_key
        self._endings = sorted({image.caption for image in images})
        of_ending = {ending: number for number, ending in enumerate(self._endings)}
        self._ending = np.array([of_ending[image.caption] for image in images], np.uint16)
        self.has_second_captions = bool(self._second_key)
        if missing := sum(not image.caption for image in images):
            LOG.warning("%s: %d of %d images have no caption file", images[0].folder, missing, len(images))

    def captions(self, index: int) -> tuple[str, ...]:
        if not (ending := self._endings[self._ending[index]]):
            raise FileNotFoundError("the image has no caption file")
        return read_captions(self._stem(index) + ending, self._caption_key)

    def second_captions(self, index: int) -> tuple[str, ...]:
        if not self._second_key:
            return ()
        return read_captions(f"{self._stem(index)}.{extensions_of(self._second_key)[0]}", self._second_key)

    def digest(self) -> str:
        """Covers names of images and sizes of caption files."""
        sha = hashlib.sha256(f"{self._caption_key} {self._second_key}".encode())
        update(sha, self._names)
        for index in range(len(self)):
            ending = self._endings[self._ending[index]]
            sha.update(repr(locations.size(self._stem(index) + ending) if ending else None).encode())
        return sha.hexdigest()

    def _stem(self, index: int) -> str:
        return os.path.splitext(text_of(self._paths, index))[0]


class ClassPairs(_Images):
    """Images in a folder per class; `labels`: int [n]."""

    def __init__(
        self, images: Sequence[ImageFile], labels: np.ndarray, class_names: tuple[str, ...], templates: Sequence[str]
    ):
        super().__init__(images)
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
