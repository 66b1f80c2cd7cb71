"""Lists images in folders, and the caption files beside them: the files with the same name, such as 001.txt."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from rankclip_jax.data.images.extensions import SUFFIXES
from rankclip_jax.data.sources.caption_keys import CaptionKey, field_of, parse_key
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.columns import CAPTIONS, find_usual
from rankclip_jax.data.storage import locations
from rankclip_jax.data.storage.folders import walk
from rankclip_jax.files.text_files import parse_json

USUAL = ("txt", "caption", "json")  # extensions of captions, the preferred one first
READ = 10  # JSON files that are read to find out whether they hold captions


class ImageFile(NamedTuple):
    """An image: its path relative to a folder, that folder, and the ending of its caption file ("" for none)."""

    name: str
    folder: str
    caption: str

    def caption_path(self) -> str:
        """Path of the caption file."""
        return os.path.splitext(os.path.join(self.folder, self.name))[0] + self.caption


def images_in(folder: str, extensions: Sequence[str]) -> list[ImageFile]:
    """The images below `folder`, each with the first caption file that it has among `extensions`."""
    found = []
    for base, files in walk(folder):
        known = {file.lower(): file for file in files}
        inside = "" if base == folder else os.path.relpath(base, folder)
        for file in files:
            if file.lower().endswith(SUFFIXES):
                found.append(ImageFile(os.path.join(inside, file), folder, _caption_ending(file, known, extensions)))
    return found


def _caption_ending(image: str, known: dict[str, str], extensions: Sequence[str]) -> str:
    stem = os.path.splitext(image)[0]
    for extension in extensions:
        for name in (f"{stem}.{extension}", f"{image}.{extension}"):  # 001.txt, or 001.jpg.txt
            if found := known.get(name.lower()):
                return found[len(stem) :]
    return ""


def extensions_of(key: str) -> tuple[str, ...]:
    """The extensions of caption files for a `caption_key`."""
    return (parse_key(key).extension,) if key else USUAL


def read_captions(path: str, key: str) -> tuple[str, ...]:
    """The captions in a caption file. With no key, those of a JSON object are in its first field with a usual name.

    Raises:
      ValueError, KeyError: there is none.
    """
    data = locations.read(path)
    if not path.lower().endswith("json"):
        return captions_of(data)
    content = parse_json(data)
    if key:
        return captions_of(field_of(content, parse_key(key)))
    name = find_usual(content, CAPTIONS) if isinstance(content, dict) else None
    if name is None:
        raise ValueError(f"no caption in {path}: no field has a usual name, such as caption")
    return captions_of(field_of(content, CaptionKey("json", (name,))))


def have_captions(images: Sequence[ImageFile], key: str) -> bool:
    """Whether some images have captions beside them. JSON files may also hold something else."""
    if any(image.caption and not image.caption.lower().endswith("json") for image in images):
        return True
    for image in [image for image in images if image.caption][:READ]:
        try:
            return bool(read_captions(image.caption_path(), key))
        except (OSError, ValueError, KeyError):
            continue
    return False
