"""TensorFlow Datasets by name, without TensorFlow.

    tfds:cifar10#train      tfds:oxford_flowers102/2.1.1#train+validation      tfds:/data/my_set/1.0.0#train[:90%]

Prepared as ArrayRecord (``download_and_prepare`` with ``file_format="array_record"``), in config.data.root or the
library's own folder; a folder with a ``dataset_info.json`` is read as it is. Images with captions, or with
labels, whose names become captions.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from typing import Any

from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.columns import CAPTIONS, IMAGES, LABELS, find_column, find_usual, text_columns
from rankclip_jax.data.sources.labels import class_captions, in_words
from rankclip_jax.errors import UserError, lookup


def open_pairs(files: Sequence[str], options: PairOptions) -> PairSource:
    """Open a prepared data set.

    Args:
      files: its name, or folder.
      options: `split` in the library's own syntax; `image_key`, `caption_key`.

    Raises:
      UserError: it is unknown, not prepared, or has no such split, no images or no captions.
    """
    name = files[0]
    builder = _builder(name, options.root)
    if not options.split:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"tfds:{name} holds several splits: name one, as in tfds:{name}#train. There are: {splits}.")
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    image = find_column(images, options.image_key, (*IMAGES, *images), "image_key", f"tfds:{name}")
    records = _records(builder, name, options.split, image)
    if not len(records):
        raise UserError(f"tfds:{name}#{options.split} has no records.")
    digest = hashlib.sha256(repr((builder.info.full_name, options.split, len(records))).encode())
    labels = {key: kind for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)}
    label = find_usual(labels, LABELS) or next(iter(labels), None)
    if label and not options.caption_key and not find_usual(features, CAPTIONS):
        return LabelledRecords(records, image, label, labels[label].names, options.templates, digest)
    return CaptionedRecords(records, image, text_columns(list(features), options, f"tfds:{name}"), digest)


def _builder(name: str, root: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError("to read tfds: needs tensorflow-datasets: pip install tensorflow-datasets.") from None
    folder = os.path.join(os.path.expanduser(root), os.path.expanduser(name))
    try:
        if os.path.exists(os.path.join(folder, "dataset_info.json")):
            return tfds.builder_from_directory(folder)
        return tfds.builder(name, data_dir=os.path.expanduser(root) or None, try_gcs=False)
    except Exception as error:  # its own errors are many
        raise UserError(f"cannot open tfds:{name} ({_reason(error)}): check the name, or give its folder.") from None


def _records(builder: Any, name: str, split: str, image: str) -> Sequence[dict[str, Any]]:
    import tensorflow_datasets as tfds

    lookup_split = split.split("[")[0].split("+")[0]
    lookup(builder.info.splits or {split: None}, lookup_split, f"split of tfds:{name}")
    try:
        return builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
    except Exception as error:
        raise UserError(
            f"cannot read tfds:{name}#{split} ({_reason(error)}): prepare it once, by tfds.builder({name!r}, "
            "file_format='array_record').download_and_prepare()."
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class _Records:
    """What both kinds share; see `PairSource`. The record read last is kept for each thread."""

    def __init__(self, records: Sequence[dict[str, Any]], image: str, digest: "hashlib._Hash"):
        self._records, self._image, self._digest = records, image, digest
        self._last = threading.local()

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        return f"record {index}"

    def image_bytes(self, index: int) -> bytes:
        return bytes(self._record(index)[self._image])

    def digest(self) -> str:
        """Of name, version, split and number of records."""
        return self._digest.hexdigest()

    def _record(self, index: int) -> dict[str, Any]:
        number, record = getattr(self._last, "record", (None, None))
        if number != index:
            record = self._records[index]
            self._last.record = index, record
        return record


class CaptionedRecords(_Records):
    """Images with captions."""

    def __init__(self, records, image: str, texts: Sequence[str], digest: "hashlib._Hash"):
        super().__init__(records, image, digest)
        self._texts = texts
        if len(texts) > 1:
            self.second_captions = lambda index: self._captions(index, texts[1])

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions(index, self._texts[0])

    def _captions(self, index: int, key: str) -> tuple[str, ...]:
        return captions_of(self._record(index)[key])


class LabelledRecords(_Records):
    """Images of named classes."""

    def __init__(
        self, records, image: str, label: str, names: Sequence[str], templates: Sequence[str], digest: "hashlib._Hash"
    ):
        super().__init__(records, image, digest)
        self._label = label
        self.class_names = tuple(map(in_words, names))
        self._captions = class_captions(self.class_names, templates)
        digest.update(repr(self._captions).encode())

    def label(self, index: int) -> int:
        """Its class, an index into `class_names`."""
        label = int(self._record(index)[self._label])
        if not 0 <= label < len(self.class_names):
            raise ValueError(f"its class is {label}, of {len(self.class_names)}")
        return label

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[self.label(index)]
