"""COCO's caption files, and Karpathy's splits of COCO, Flickr30k and Flickr8k: one pair per image, with all captions.

COCO's files (``captions_val2017.json``) hold ``images`` and ``annotations``; the images are in the folder
`PairOptions.image_root`. Karpathy's files (``dataset_coco.json``) hold several splits; the location names one or
more: ``coco:dataset_coco.json#test``, ``coco:dataset_coco.json#train+restval``.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.strings import packed
from rankclip_jax.data.sources.table_files import read_text
from rankclip_jax.data.sources.tables import Rows, TablePairs, Texts, folder_of
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.files.text_files import parse_json
from rankclip_jax.terminal.redact import redacted

LOG = logging.getLogger(__name__)


def open_pairs(files: Sequence[str], options: PairOptions) -> TablePairs:
    """Read caption files; `UserError` if one is missing, has another layout, or lacks the split."""
    folder = folder_of(files, options)
    pairs = [pair for file in files for pair in _read(file, options.split)]
    captions = packed(caption for _, texts in pairs for caption in texts)
    owners = np.repeat(np.arange(len(pairs)), [len(texts) for _, texts in pairs])
    return TablePairs(Rows(packed(image for image, _ in pairs), Texts(captions, owners)), folder)


def _read(file: str, split: str) -> list[tuple[str, list[str]]]:
    """Path and captions of each image that has captions."""
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): is it complete?") from None
    try:
        read = _coco if "annotations" in content else _karpathy
        pairs = [(image, texts) for image, texts in read(content, split, file) if texts]
        if not all(isinstance(image, str) for image, _ in pairs):
            raise TypeError("the name of an image is not text")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a caption file in the layout of COCO or Karpathy ({type(error).__name__}: {error}): "
            "it needs `images`, and either `annotations` or `sentences` in each image."
        ) from None
    if not pairs:
        raise UserError(f"{file} has no captions: COCO publishes none for its test sets.")
    return pairs


def _texts(value: Any) -> list[str]:
    """The texts in a value: a text or a list of texts."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _coco(content: dict[str, Any], split: str, file: str) -> list[tuple[str, list[str]]]:
    of_image: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
    if len(of_image) < len(content["images"]):
        raise UserError(f"{file}: several of `images` have the same id: give each its own, also in `annotations`.")
    unknown = 0
    for annotation in content["annotations"]:
        if annotation["image_id"] in of_image:
            of_image[annotation["image_id"]] += _texts(annotation["caption"])
        else:
            unknown += 1
    if unknown == len(content["annotations"]) > 0:
        raise UserError(f"{file}: none of the {unknown} annotations is of an image in `images`: compare the ids.")
    silent = sum(not texts for texts in of_image.values())
    if unknown or silent:
        total = len(content["annotations"]), len(of_image)
        left_out = "%s: left out: %d of %d annotations, whose image is not listed; %d of %d images, without captions"
        LOG.warning(left_out, redacted(file), unknown, total[0], silent, total[1])
    images = _of_split(content["images"], split, file)
    return [(image["file_name"], of_image[image["id"]]) for image in images]


def _karpathy(content: dict[str, Any], split: str, file: str) -> list[tuple[str, list[str]]]:
    return [
        # COCO's images are in a folder per year, `filepath`; Flickr's are in one folder.
        (
            "/".join(filter(None, (image.get("filepath"), image["filename"]))),
            [text for s in image["sentences"] for text in _texts(s["raw"])],
        )
        for image in _of_split(content["images"], split, file)
    ]


def _of_split(images: list[dict[str, Any]], split: str, file: str) -> list[dict[str, Any]]:
    """The images of some splits, joined by "+"; `UserError` if there are several splits and none is named."""
    known = dict.fromkeys(image.get("split", "") for image in images)
    if split and {*known} <= {""}:
        raise UserError(f"{file} has only one split: leave out #{split}.")
    if not split and len(known) > 1:
        raise UserError(f"{file} holds several splits: name one, as in {file}#test. Known: {', '.join(known)}.")
    wanted = {name.strip() for name in split.split("+")} if split else {*known}
    for name in wanted:
        lookup(known, name, f"split of {file}")
    return [image for image in images if image.get("split", "") in wanted]
