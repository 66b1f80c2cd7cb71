"""Retrieval by pixels alone: the nearest training image decides the concept of an image.

Letters: N images, T training images, C concepts of the training images, M texts, P pixel values.

A model that only recognises near-copies of its training images reaches about these values, so compare results with
them. This baseline needs training images with known concepts, which web data do not have.
"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.evals.retrieval import KS, retrieval
from rankclip_jax.evals.similarity import STEPS, Lines, quantise, row_blocks

SIDE = 16  # images are averaged down to about this side: the blur tolerates shifts, which makes the baseline stronger
LOWEST = -2 * STEPS  # below any cosine


def pixel_reference(
    split: EvalSplit, train_images: np.ndarray, train_ids: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Return `retrieval`'s metrics for a nearest-neighbour search in pixel space.

    score(image n, text m) = the largest cosine of image n and any training image of m's concept, between flattened
    pixels with mean 0 and norm 1 (L2 distance gives the same order). A concept without training images ranks last,
    and ties count against it as in `retrieval`.

    Args:
      split: N images [N, H, W, 3] and M texts.
      train_images: uint8 [T, H, W, 3].
      train_ids: int [T], concepts as in ``split.image_ids`` and ``split.text_ids``.
      ks: cut-offs.

    Returns:
      `retrieval`'s metrics under ``<split>/<metric>``; empty if no image's concept has a training image: the baseline
      does not apply then.
    """
    if not np.isin(split.image_ids, train_ids).any():
        return {}
    table = _PixelScores(split, train_images, train_ids)
    found = retrieval(table, split.image_ids, split.text_ids, ks)
    return {f"{split.name}/{key}": value for key, value in found.items()}


class _PixelScores:
    """Scores of N images and M texts by pixels, a `ScoreTable`."""

    def __init__(self, split: EvalSplit, train_images: np.ndarray, train_ids: np.ndarray):
        self.shape = len(split.image_ids), len(split.text_ids)
        concepts = np.unique(train_ids)
        self._scores = _concept_scores(split.images, train_images, train_ids)
        self._known = np.isin(split.text_ids, concepts)
        self._concept = np.minimum(np.searchsorted(concepts, split.text_ids), len(concepts) - 1)

    def tile(self, rows: Lines, columns: Lines) -> np.ndarray:
        found = quantise(self._scores[rows][:, self._concept[columns]])
        return np.where(self._known[None, columns], found, LOWEST)


def _concept_scores(images: np.ndarray, train_images: np.ndarray, train_ids: np.ndarray) -> np.ndarray:
    """Return float32 [N, C]: the largest cosine to the training images of each concept, concepts in sorted order."""
    order = np.argsort(train_ids, kind="stable")
    starts = np.unique(train_ids[order], return_index=True)[1]
    train_PT = pixel_vectors(train_images)[order].T
    queries = pixel_vectors(images)
    scores = np.empty((len(images), len(starts)), np.float32)
    for block in row_blocks(len(images), len(train_ids)):
        scores[block] = np.maximum.reduceat(queries[block] @ train_PT, starts, axis=1)
    return scores


def pixel_vectors(images: np.ndarray) -> np.ndarray:
    """Return float32 [N, P]: images averaged down to `SIDE`, flattened, mean 0, norm 1."""
    n, height, width, _ = images.shape
    factor = max(1, min(height, width) // SIDE)
    height, width = height // factor * factor, width // factor * factor
    cells = images[:, :height, :width].reshape(n, height // factor, factor, width // factor, factor, 3)
    flat = cells.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
