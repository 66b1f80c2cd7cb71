"""Finds splits in folders of images by the names of their folders: train/ and test/, at any depth."""

import os
from collections.abc import Sequence

from rankclip_jax.data.sources.image_files import ImageFile
from rankclip_jax.data.storage.split_names import are_splits, is_split
from rankclip_jax.errors import UserError


def split_folder(images: Sequence[ImageFile], wanted: str, where: str) -> str:
    """The folder of a split, relative to the folders of the images; "" if they hold no splits.

    Folders with images are splits if two of them beside each other have different names of splits (`are_splits`). A
    single folder in a folder is passed through, so that ``photos/data/train`` and ``photos/data/test`` are found too.

    Args:
      images: at least one image.
      wanted: name of a folder; "" if there must be only one split.
      where: the location, for messages.

    Raises:
      UserError: there is no such split, or there are several and none is wanted.
    """
    base, passed = "", []
    while len(known := _folders_in(base, images)) == 1 and not (known == [wanted] and is_split(wanted)):
        base, passed = os.path.join(base, known[0]), [*passed, known[0]]
    is_layer = known == [wanted] or are_splits(known)
    if is_layer and wanted in known:
        return os.path.join(base, wanted)
    listed = ", ".join(known) if is_layer else ""
    if wanted and wanted not in passed:
        raise UserError(f"{where} has no folder {wanted!r} of a split. Known: {listed or 'none'}.")
    if is_layer:
        raise UserError(f"{where} holds several splits: name one, as in {where}#{known[0]}. Known: {listed}.")
    return ""


def wrapping_folder(images: Sequence[ImageFile]) -> str:
    """The deepest folder whose only content are folders of images, ``images`` in ``images/cat/1.jpg``; "" for none."""
    base = ""
    while len(found := _folders_in(base, images)) == 1 and _folders_in(inside := os.path.join(base, found[0]), images):
        base = inside
    return base


def inside(images: Sequence[ImageFile], folder: str) -> list[ImageFile]:
    """The images in a folder that is relative to theirs, with names relative to it."""
    start = os.path.join(folder, "") if folder else ""
    named = [image for image in images if image.name.startswith(start)]
    return [
        image._replace(name=image.name[len(start) :], folder=os.path.join(image.folder, folder).rstrip(os.sep))
        for image in named
    ]


def _folders_in(base: str, images: Sequence[ImageFile]) -> list[str]:
    """Sorted names of the folders with images in the folder `base`; none if it has images itself."""
    start = os.path.join(base, "") if base else ""
    rests = [image.name[len(start) :] for image in images if image.name.startswith(start)]
    if any(os.sep not in rest for rest in rests):
        return []
    return sorted({rest.split(os.sep, 1)[0] for rest in rests})
