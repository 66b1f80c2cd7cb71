"""What every data source gives: records to train on, and splits to evaluate on.

Letters: N images, M candidate texts, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Record:
    """One image with its captions.

    Attributes:
      key: unique name of the record inside its source.
      image: uint8 [H, W, 3] RGB, or a PIL image of mode RGB.
      captions: at least one caption; the loader draws one per step.
      second_captions: captions of another origin, such as a captioning model; the loader draws one of
        them too for objectives that read both kinds.
    """

    key: str
    image: np.ndarray | Image.Image
    captions: tuple[str, ...]
    second_captions: tuple[str, ...] = ()


class RecordSource(Protocol):
    """Random access to records, from several threads at once.

    `source[i]` raises any exception for a record that cannot be read: the loader replaces that
    record, counts it, and stops above a ceiling. `key` and `captions` never decode the image.

    A source all of whose records have second captions also has a method `second_captions`, like `captions`:
    that is how an objective knows.

    A source whose concepts are known may also have `ids`, int [N] in the numbering of the evaluation
    splits, and `images`, uint8 [N, H, W, 3]: then evaluation adds a pixel nearest-neighbour reference.

    A source whose records are labelled, which a linear probe needs, has `classes`, the names of the classes of
    each labelling, and `labels(labelling)`, int [N]: an index into those names, or -1 for a record without a
    label. Labellings have the names they have in the evaluation splits, and classes too.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def key(self, index: int) -> str:
        """Name of record `index`, for messages about a record that cannot be read."""
        ...

    def captions(self, index: int) -> tuple[str, ...]:
        """Captions of record `index`, for training a tokenizer."""
        ...


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
    """Images and candidate texts; image n and text m match iff image_ids[n] == text_ids[m].

    Several texts per image and several images per text are both allowed.

    Attributes:
      name: split name as it appears in metrics, e.g. ``test_style``.
      images: uint8 [N, H, W, 3], or `LazyImages`: N images of any size, decoded when asked for.
      image_ids: int [N].
      texts: M candidate texts.
      text_ids: int [M].
      classes: labellings by name, e.g. ``{"group": ..., "subgroup": ...}``.
    """

    name: str
    images: np.ndarray | Sequence
    image_ids: np.ndarray
    texts: tuple[str, ...]
    text_ids: np.ndarray
    classes: Mapping[str, Classes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """What a source builder returns.

    Attributes:
      name: registry name of the source.
      train: records to train on.
      evals: evaluation splits by name; ``val`` is for choosing anything, ``test*`` for reporting.
      digest: sha256 hex of the records that make up every split (keys, pixels, captions).
      counts: number of images in each split, in the order to print.
    """

    name: str
    train: RecordSource
    evals: Mapping[str, EvalSplit]
    digest: str
    counts: Mapping[str, int]
