"""The interface of data sources: training records and evaluation splits.

Letters: N images, M candidate texts, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Record:
    """One image with its captions.

    Attributes:
      key: unique name of the record in its source.
      image: uint8 [H, W, 3] RGB, or a PIL image of 8 bits per channel; the model's resize makes it RGB.
      captions: at least one caption; the loader draws one per step.
      second_captions: captions from another origin, such as a captioning model. The loader draws one of these too,
        for objectives that use them.
    """

    key: str
    image: np.ndarray | Image.Image
    captions: tuple[str, ...]
    second_captions: tuple[str, ...] = ()


class RecordSource:
    """Base class: random access to N records, from several threads at once.

    `source[i]` may raise any exception for an unreadable record: the loader replaces and counts that record, and stops
    the run if there are too many. `key` and `captions` never decode the image.

    A source implements `__len__`, `__getitem__`, `key` and `captions`; the other members are optional.

    Attributes:
      has_second_captions: whether every record has second captions.
      classes: class names by labelling, the same as in the evaluation splits.
      images: uint8 [N, H, W, 3], if all images are in memory; None otherwise.
      concept_ids: int [N], the content of each image, as in `EvalSplit.image_ids`; None if unknown. The pixel
        nearest-neighbour baseline needs `images` and `concept_ids`.
    """

    has_second_captions: bool = False
    classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    images: np.ndarray | None = None
    concept_ids: np.ndarray | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Record:
        raise NotImplementedError

    def key(self, index: int) -> str:
        """Name of a record, for messages."""
        raise NotImplementedError

    def captions(self, index: int) -> tuple[str, ...]:
        """Captions of a record, for training a tokenizer."""
        raise NotImplementedError

    def second_captions(self, index: int) -> tuple[str, ...]:
        """Second captions of a record; () if the source has none."""
        return ()

    def labels(self, labelling: str) -> np.ndarray:
        """int [N], indices into `classes[labelling]`; -1 for no label. `KeyError` for an unknown labelling."""
        raise KeyError(labelling)


def fill_template(template: str, name: str) -> str:
    """Return a prompt template with the class name in place of ``{}``; other braces stay as they are."""
    return template.replace("{}", name)


@dataclass(frozen=True)
class Classes:
    """A labelling of an evaluation split, for zero-shot classification and graded relevance.

    Attributes:
      names: class names, as they are put into the templates.
      image_labels: int [N], index into `names` of each image.
      text_labels: int [M], index into `names` of each candidate text.
      templates: prompts with one ``{}`` each.
    """

    names: tuple[str, ...]
    image_labels: np.ndarray
    text_labels: np.ndarray
    templates: tuple[str, ...]


@dataclass(frozen=True)
class EvalSplit:
    """Images and candidate texts. Image n and text m match if image_ids[n] == text_ids[m]. Each may match several.

    Attributes:
      name: split name as it appears in metrics, such as ``test_style``.
      images: uint8 [N, H, W, 3], or `LazyImages`: N images of any size, decoded on access.
      image_ids: int [N].
      texts: M candidate texts.
      text_ids: int [M].
      classes: labellings by name, such as ``{"group": ..., "subgroup": ...}``.
    """

    name: str
    images: np.ndarray | Sequence
    image_ids: np.ndarray
    texts: tuple[str, ...]
    text_ids: np.ndarray
    classes: Mapping[str, Classes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Training records and evaluation splits.

    Attributes:
      name: registry name of the source.
      train: records to train on.
      evals: evaluation splits by name; ``val`` is for choices made during training, ``test*`` for reporting.
      digest: sha256 hex of the splits. Its coverage depends on the format: docs/data.md.
      counts: number of images in each split, in the order to print.
    """

    name: str
    train: RecordSource
    evals: Mapping[str, EvalSplit]
    digest: str
    counts: Mapping[str, int]
