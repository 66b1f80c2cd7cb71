"""Nearest neighbours in the report's split, computed once for all sections of the page.

Letters: N images, M texts, k neighbours.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rankclip_jax.report.run_folder import ReportSplit


@dataclass(frozen=True)
class Neighbours:
    """Scores, ranks and nearest neighbours; the split is small enough for an N x M matrix."""

    split: ReportSplit

    @cached_property
    def scores(self) -> np.ndarray:
        """float32 [N, M]: cosine of image n and text m."""
        return self.split.image_embeds @ self.split.text_embeds.T

    @cached_property
    def match(self) -> np.ndarray:
        """bool [N, M]: image n and text m belong together."""
        return self.split.image_ids[:, None] == self.split.text_ids[None, :]

    @cached_property
    def image_ranks(self) -> np.ndarray:
        """int [N]: rank of each image's best matching text, 0 if no text matches."""
        return _ranks(self.scores, self.match)

    @cached_property
    def text_ranks(self) -> np.ndarray:
        """int [M]: rank of each text's best matching image, 0 if no image matches."""
        return _ranks(self.scores.T, self.match.T)

    @cached_property
    def own_texts(self) -> np.ndarray:
        """int [N]: index of each image's first matching text, -1 if no text matches."""
        return np.where(self.match.any(axis=1), self.match.argmax(axis=1), -1)

    @cached_property
    def captions(self) -> list[str]:
        """The first matching text of each image, or "image n" with the index n."""
        return [self.split.texts[m] if m >= 0 else f"image {n}" for n, m in enumerate(self.own_texts)]

    def texts_of_images(self, k: int) -> np.ndarray:
        """Return int [N, k]: the texts nearest to each image, best first."""
        return top(self.scores, k)

    def images_of_texts(self, k: int) -> np.ndarray:
        """Return int [M, k]: the images nearest to each text, best first."""
        return top(self.scores.T, k)

    def images_of_images(self, k: int) -> np.ndarray:
        """Return int [N, k]: the other images nearest to each image, best first."""
        similar = self.split.image_embeds @ self.split.image_embeds.T
        np.fill_diagonal(similar, -np.inf)
        return top(similar, min(k, len(similar) - 1))


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Return int [rows, k]: column indices of the k largest scores of each row, best first."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.zeros((len(scores), 0), int)
    found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _ranks(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    best = np.where(match, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + ((scores >= best) & ~match).sum(axis=1)
    return np.where(match.any(axis=1), ranks, 0)
