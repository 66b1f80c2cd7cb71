"""TensorFlow Datasets by name, without TensorFlow.

    tfds:cifar10#train      tfds:oxford_flowers102/2.1.1#train+validation      tfds:/data/my_set/1.0.0#train[:90%]

The data set must be prepared as ArrayRecord (``download_and_prepare`` with ``file_format="array_record"``), in
config.data.root or in the library's default folder. A folder with a ``dataset_info.json`` can be named directly. Images
have captions, or labels whose class names make the captions.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rankclip_jax.data.pairs import LAST_READ, PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.columns import CAPTIONS, IMAGES, LABELS, find_column, find_usual, text_columns
from rankclip_jax.data.sources.labels import checked_label, class_captions, in_words
from rankclip_jax.errors import UserError, lookup


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open a prepared data set.

    Args:
      files: its name or folder, one entry.
      options: `split` in the library's own syntax; `image_key`, `caption_key`, `templates`.

    Raises:
      UserError: it is unknown or not prepared, or lacks the split, images or captions.
    """
    builder, where = _builder(files[0], options.root), f"tfds:{files[0]}"
    import tensorflow_datasets as tfds

    features, split = builder.info.features, options.split or _only_split(builder, where)
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    image = find_column(images, options.image_key, (*IMAGES, *images), "image_key", where)
    records = Stored(_records(builder, files[0], split, image), image, (builder.info.full_name, split))
    labels = {key: kind.names for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)}
    label = find_usual(labels, LABELS) or next(iter(labels), None)
    if label and not options.caption_key and not find_usual(features, CAPTIONS):
        return LabelledRecords(records, label, labels[label], options.templates)
    return CaptionedRecords(records, *text_columns(list(features), options, where))


def _only_split(builder: Any, where: str) -> str:
    splits = list(builder.info.splits)
    if len(splits) > 1:
        raise UserError(f"{where} holds several splits: name one, as in {where}#train. Known: {', '.join(splits)}.")
    return splits[0] if splits else "train"


def _builder(name: str, root: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError("the format tfds needs tensorflow-datasets: pip install tensorflow-datasets.") from None
    folder = os.path.join(os.path.expanduser(root), os.path.expanduser(name))
    try:
        if os.path.exists(os.path.join(folder, "dataset_info.json")):
            return tfds.builder_from_directory(folder)
        return tfds.builder(name, data_dir=os.path.expanduser(root) or None, try_gcs=False)
    except Exception as error:  # the library raises many types
        raise UserError(f"cannot open tfds:{name} ({_reason(error)}): check the name, or give its folder.") from None


def _records(builder: Any, name: str, split: str, image: str) -> Sequence[dict[str, Any]]:
    import tensorflow_datasets as tfds

    lookup_split = split.split("[")[0].split("+")[0]
    lookup(builder.info.splits or {split: None}, lookup_split, f"split of tfds:{name}")
    try:
        records = builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
    except Exception as error:
        raise UserError(
            f"cannot read tfds:{name}#{split} ({_reason(error)}): prepare it once, by tfds.builder({name!r}, "
            "file_format='array_record').download_and_prepare()."
        ) from None
    if not len(records):
        raise UserError(f"tfds:{name}#{split} has no records: check the split.")
    return records


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Stored(NamedTuple):
    """Records of a split, whose images are not decoded.

    Attributes:
      records: maps of feature to value.
      image: feature of the image.
      name: name and version of the data set, and the split.
    """

    records: Sequence[dict[str, Any]]
    image: str
    name: tuple[str, str]


class _Records(PairSource):
    """One pair per record. Keys are "record 17", because TensorFlow Datasets stores no names."""

    def __init__(self, stored: Stored):
        self._stored, self._record = stored, lru_cache(LAST_READ)(stored.records.__getitem__)

    def __len__(self) -> int:
        return len(self._stored.records)

    def key(self, index: int) -> str:
        return f"record {index}"

    def image_bytes(self, index: int) -> bytes:
        return bytes(self._record(index)[self._stored.image])

    def _sha(self) -> "hashlib._Hash":
        return hashlib.sha256(repr((*self._stored.name, len(self))).encode())


class CaptionedRecords(_Records):
    """Images with a feature of captions, and perhaps one of second captions."""

    def __init__(self, stored: Stored, caption: str, second: str = ""):
        super().__init__(stored)
        self._caption, self._second = caption, second
        self.has_second_captions = bool(second)

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)[self._caption])

    def second_captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._record(index)[self._second]) if self._second else ()

    def digest(self) -> str:
        """Covers name, version, split and number of records."""
        return self._sha().hexdigest()


class LabelledRecords(_Records):
    """Images with a feature of labels."""

    def __init__(self, stored: Stored, label: str, names: Sequence[str], templates: Sequence[str]):
        super().__init__(stored)
        self._label = label
        self.class_names = tuple(map(in_words, names))
        self._captions = class_captions(self.class_names, templates)

    def label(self, index: int) -> int:
        return checked_label(self._record(index)[self._label], self.class_names)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self.label(index)]

    def digest(self) -> str:
        """Covers name, version, split, number of records, and captions."""
        sha = self._sha()
        sha.update(repr(self._captions).encode())
        return sha.hexdigest()
