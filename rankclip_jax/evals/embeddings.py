"""The embeddings of one split: the input of every evaluation."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rankclip_jax.evals.similarity import Scores


class ImageTextEncoder(Protocol):
    """A model to evaluate. Both methods batch internally and return unit-norm rows."""

    def encode_image(self, images: np.ndarray | Sequence) -> np.ndarray:
        """N images, as in `EvalSplit.images` -> float32 [N, D]."""

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """M texts -> float32 [M, D]."""


@dataclass(frozen=True)
class SplitEmbeddings:
    """The encoded images, texts and classes of a split.

    Attributes:
      image_embeds: float [N, D].
      text_embeds: float [M, D].
      class_embeds: float [K, D] by the name of the labelling.
    """

    image_embeds: np.ndarray
    text_embeds: np.ndarray
    class_embeds: Mapping[str, np.ndarray] = field(default_factory=dict)

    @functools.cached_property
    def scores(self) -> Scores:
        """Scores of images (queries) and texts (candidates), shared by all evaluations."""
        return Scores(self.image_embeds, self.text_embeds)


def paired_rows(image_ids: np.ndarray, text_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of P pairs, int [P] of images and of texts: the first image and text of each shared concept."""
    images, image_rows = np.unique(image_ids, return_index=True)
    texts, text_rows = np.unique(text_ids, return_index=True)
    _, in_images, in_texts = np.intersect1d(images, texts, return_indices=True)
    return image_rows[in_images], text_rows[in_texts]
