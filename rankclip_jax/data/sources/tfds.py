"""TensorFlow Datasets by name, without TensorFlow.

    tfds:cifar10#train      tfds:oxford_flowers102/2.1.1#train+validation      tfds:/data/my_set/1.0.0#train[:90%]

The data set must be prepared as ArrayRecord (``download_and_prepare`` with ``file_format="array_record"``), in
config.data.root or in the library's default folder. A location can also be a folder with a ``dataset_info.json``.
Images have captions, or labels; class names then make the captions.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rankclip_jax.data.pairs import LAST_READ, PairOptions, PairSource
from rankclip_jax.data.sources.cells import CaptionedCells, Cells, LabelledCells
from rankclip_jax.data.sources.class_names import class_names_of
from rankclip_jax.data.sources.columns import CAPTIONS, IMAGES, LABELS, find_column, find_usual, text_columns
from rankclip_jax.data.sources.image_columns import ImageColumn
from rankclip_jax.errors import UserError, lookup


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open a prepared data set: `files` has its name or folder, `options.split` a split in the library's syntax.

    Raises:
      UserError: it is unknown or not prepared, or lacks the split, images or captions.
    """
    builder, where = _builder(files[0], options.root), f"tfds:{files[0]}"
    import tensorflow_datasets as tfds

    features, split = builder.info.features, options.split or _only_split(builder, where)
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    image = find_column(images, options.image_key, (*IMAGES, *images), "image_key", where)
    records = Records(_records(builder, files[0], split, image), (builder.info.full_name, split))
    column = ImageColumn(records, image)
    labels = {key: kind.names for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)}
    label = find_usual(labels, LABELS) or next(iter(labels), None)
    if label and not options.caption_key and not find_usual(features, CAPTIONS):
        names = class_names_of(labels[label], [str(builder.data_path)], where)
        return LabelledRecords(column, label, names, options.templates)
    return CaptionedCells(column, *text_columns(list(features), options, where))


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


class Records(Cells):
    """The records of a split, with encoded images. Keys are "record 17": TensorFlow Datasets stores no names.

    Args:
      records: maps of feature to value.
      name: name and version of the data set, and the split.
    """

    def __init__(self, records: Sequence[dict[str, Any]], name: tuple[str, str]):
        self._count, self._name = len(records), name
        self._record = lru_cache(LAST_READ)(records.__getitem__)

    def __len__(self) -> int:
        return self._count

    def cell(self, column: str, index: int) -> Any:
        return self._record(index)[column]

    def large_cell(self, column: str, index: int) -> bytes:
        return bytes(self._record(index)[column])

    def name(self, index: int) -> str:
        return f"record {index}"

    def digest(self, captions: str = "") -> str:
        """Covers name, version, split and number of records, and the captions made of class names."""
        return hashlib.sha256(f"{(*self._name, self._count)!r}{captions}".encode()).hexdigest()


class LabelledRecords(LabelledCells):
    """Images with a feature of labels."""

    def digest(self) -> str:
        return self._cells.digest(repr(self._captions))
