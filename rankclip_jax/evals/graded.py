"""Graded retrieval: NDCG in both directions, with relevance from a labelling.

Letters: N images, M texts, Q queries, C candidates of one direction, k cut-off.

DCG@k = sum_{r=1..k} gain_r / log2(r + 1), divided by its largest possible value (Jarvelin & Kekalainen 2002; gain
2^relevance - 1 with relevance 2 for the query's own concept, 1 for the same label, 0 otherwise). Among tied candidates
the least relevant rank first. With a NaN score, a relevant candidate earns nothing and an irrelevant one ranks first.
Queries without a relevant candidate are left out; if no query remains, the result is 0.
"""

from typing import NamedTuple

import numpy as np

from rankclip_jax.evals.retrieval import equal_counts
from rankclip_jax.evals.similarity import STEPS

K = 10
NAMES = (f"image_to_text_NDCG@{K}", f"text_to_image_NDCG@{K}")
OWN_GAIN, SHARED_GAIN = 3, 1  # 2^relevance - 1
_KEY_STEP = 4  # an integer above the largest gain
_OUT_OF_RANGE = 4 * STEPS  # beyond any cosine: ranks NaN first or last


class Judged(NamedTuple):
    """Items and what decides their relevance: int ids and labels of the same length."""

    ids: np.ndarray
    labels: np.ndarray


class GradedRanks:
    """The gains of the first k candidates of every image and of every text, from one reading of the scores.

    `read` takes the tiles of N images and M texts; `metrics` then returns the mean NDCG of both directions.
    """

    def __init__(self, images: Judged, texts: Judged, k: int = K):
        self._images, self._texts, self._k = images, texts, k
        n, m = len(images.ids), len(texts.ids)
        self._top = np.full((n, min(k, m)), -np.inf), np.full((m, min(k, n)), -np.inf)  # the largest keys so far

    def read(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        keys = self._keys(rows, columns, scores)
        for top, lines, tile in ((self._top[0], rows, keys), (self._top[1], columns, keys.T)):
            top[lines] = _largest(np.concatenate([top[lines], tile], axis=1), top.shape[1])

    def metrics(self) -> dict[str, float]:
        directions = (self._top[0], self._images, self._texts), (self._top[1], self._texts, self._images)
        return {
            name: _mean_share((-top % _KEY_STEP) @ _discounts(top.shape[1]), queries, candidates, self._k)
            for name, (top, queries, candidates) in zip(NAMES, directions, strict=True)
        }

    def _keys(self, rows: slice, columns: slice, scores: np.ndarray) -> np.ndarray:
        """Return float64 keys that sort by score, and among ties the smaller gain first.

        Scores are integers, so one key holds score and gain, and the gain can be read back from it.
        """
        own = self._images.ids[rows, None] == self._texts.ids[None, columns]
        shared = self._images.labels[rows, None] == self._texts.labels[None, columns]
        gains = np.where(own, np.int8(OWN_GAIN), shared * np.int8(SHARED_GAIN))
        keys = _KEY_STEP * scores - gains
        missing = np.isnan(keys)
        if missing.any():
            keys[missing] = _KEY_STEP * np.where(gains[missing] > 0, -_OUT_OF_RANGE, _OUT_OF_RANGE)
        return keys


def ndcg_chance(images: Judged, texts: Judged, k: int = K) -> dict[str, float]:
    """Return the expected NDCG of a random ranking: every rank then has the query's mean gain."""
    found = {}
    for name, queries, candidates in zip(NAMES, (images, texts), (texts, images), strict=True):
        own, shared = _relevant(queries, candidates)
        mean_gains = (OWN_GAIN * own + SHARED_GAIN * shared) / max(1, len(candidates.ids))
        discounts = _discounts(min(k, len(candidates.ids))).sum()
        found[name] = _mean_share(mean_gains * discounts, queries, candidates, k)
    return found


def _mean_share(dcg: np.ndarray, queries: Judged, candidates: Judged, k: int) -> float:
    """Return the mean of `dcg` [Q] / ideal DCG over the queries that have a relevant candidate."""
    own, shared = _relevant(queries, candidates)
    sums = np.concatenate([[0.0], np.cumsum(_discounts(min(k, len(candidates.ids))))])  # of the first r ranks
    first, last = np.minimum(own, len(sums) - 1), np.minimum(own + shared, len(sums) - 1)
    ideal = OWN_GAIN * sums[first] + SHARED_GAIN * (sums[last] - sums[first])
    answerable = ideal > 0
    return float((dcg[answerable] / ideal[answerable]).sum() / max(1, np.count_nonzero(answerable)))


def _relevant(queries: Judged, candidates: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Return int [Q] and int [Q]: candidates of the query's own concept, and others of its label."""
    both = [np.stack(judged, axis=1) for judged in (queries, candidates)]
    own = equal_counts(queries.ids, candidates.ids)
    return own, equal_counts(queries.labels, candidates.labels) - equal_counts(*both)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k largest values of each row, in descending order."""
    top = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k :]
    return np.sort(top, axis=1)[:, ::-1]


def _discounts(k: int) -> np.ndarray:
    return 1 / np.log2(np.arange(k) + 2)
