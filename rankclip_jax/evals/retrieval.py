"""Image-text retrieval: R@K in both directions.

Letters: N images, M texts, Q queries, C candidates of one direction.

The standard protocol (Karpathy splits): an image with several captions is a hit if *any* of them is among the first K;
every caption is a query. Ranks are counted tile by tile, without sorting. Ties and NaN count against the model: a
constant model scores 0, not 1.
"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.evals.similarity import ScoreTable, read_tiles, row_blocks

KS = (1, 5, 10)


def retrieval(
    scores: ScoreTable, image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Return R@K, median rank and number of queries, for both directions.

    Image n and text m match iff ``image_ids[n] == text_ids[m]``. The rank of a query is one plus the number of
    candidates that do not match and score at least as high as its best match. Queries without any match are left out;
    ``*_queries`` counts the others.

    Args:
      scores: N images and M texts.
      image_ids, text_ids: int [N] and int [M].
      ks: cut-offs K.

    Returns:
      ``image_to_text_R@K``, ``image_to_text_median_rank``, ``image_to_text_queries``, and the same for
      ``text_to_image``. Always finite.

    Raises:
      UserError: there is no image or no text, or no image matches a text.
    """
    ranks = MatchRanks(scores, image_ids, text_ids)
    read_tiles(scores, [ranks.read])
    return ranks.metrics(ks)


class MatchRanks:
    """The rank of the best match of every image and of every text, from one reading of the scores.

    `read` takes the tiles; `metrics` then returns those of `retrieval`, which describes arguments and errors.
    """

    def __init__(self, scores: ScoreTable, image_ids: np.ndarray, text_ids: np.ndarray):
        self._image_ids, self._text_ids = np.asarray(image_ids), np.asarray(text_ids)
        self._answerable = (
            _matches_per_query(self._image_ids, self._text_ids) > 0,
            _matches_per_query(self._text_ids, self._image_ids) > 0,
        )
        self._best = _best_matches(scores, self._image_ids, self._text_ids)
        # For each query, the number of candidates that match or score lower than its best match.
        self._not_ahead = tuple(np.zeros(length, np.int64) for length in scores.shape)

    def read(self, rows: slice, columns: slice, scores: np.ndarray) -> None:
        match = self._image_ids[rows, None] == self._text_ids[None, columns]
        by_image = (scores < self._best[0][rows, None]) | match  # not so for a NaN: it is ahead
        by_text = (scores < self._best[1][None, columns]) | match
        self._not_ahead[0][rows] += np.count_nonzero(by_image, axis=1)
        self._not_ahead[1][columns] += np.count_nonzero(by_text, axis=0)

    def metrics(self, ks: Sequence[int] = KS) -> dict[str, float]:
        lengths = len(self._text_ids), len(self._image_ids)  # of the ranked lists
        found = []
        for best, not_ahead, answerable, length in zip(
            self._best, self._not_ahead, self._answerable, lengths, strict=True
        ):
            # Infinity if all matches of a query have NaN scores.
            ranks = np.where(np.isneginf(best), np.inf, 1 + length - not_ahead)[answerable]
            found.append(_direction_metrics(ranks, length, ks))
        return _both(*found)


def _best_matches(scores: ScoreTable, image_ids: np.ndarray, text_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float [N] and float [M]: the highest score of the matches of each image and text; -infinity for none."""
    of_image, of_text = np.full(len(image_ids), -np.inf), np.full(len(text_ids), -np.inf)
    images, texts = _rows_by_id(image_ids), _rows_by_id(text_ids)
    for concept in images.keys() & texts.keys():
        columns = texts[concept]
        for block in row_blocks(len(images[concept]), len(columns)):
            rows = images[concept][block]
            matches = scores.tile(rows, columns)
            # fmax ignores NaN.
            of_image[rows] = np.fmax.reduce(matches, axis=1, initial=-np.inf)
            of_text[columns] = np.fmax(of_text[columns], np.fmax.reduce(matches, axis=0, initial=-np.inf))
    return of_image, of_text


def _rows_by_id(ids: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _direction_metrics(ranks: np.ndarray, n_candidates: int, ks: Sequence[int]) -> dict[str, float]:
    recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in ks}
    # A query whose matches are all NaN has rank infinity; for the median it ranks last.
    median = float(np.median(np.minimum(ranks, n_candidates)))
    return {**recalls, "median_rank": median, "queries": float(len(ranks))}


def retrieval_chance(image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Return the expected R@K and median rank of a uniformly random ranking, under `retrieval`'s keys."""
    return _both(_direction_chance(image_ids, text_ids, ks), _direction_chance(text_ids, image_ids, ks))


def _matches_per_query(query_ids: np.ndarray, candidate_ids: np.ndarray) -> np.ndarray:
    """Return int [Q]: the number of candidates that match each query; raise `UserError` if no query has a match."""
    if len(candidate_ids) == 0 or len(query_ids) == 0:
        raise UserError(
            f"retrieval has {len(query_ids)} queries and {len(candidate_ids)} candidates: "
            "an evaluation split needs at least one image and one text."
        )
    matches = equal_counts(query_ids, candidate_ids)
    if not matches.any():
        raise UserError(
            "retrieval has no query with a match: images and texts share no id. "
            "Check image_ids and text_ids of the evaluation split."
        )
    return matches


def equal_counts(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return int [Q]: the number of candidates [C, ...] that are equal to each query [Q, ...]."""
    _, codes = np.unique(np.concatenate([queries, candidates]), axis=0, return_inverse=True)
    query_codes, candidate_codes = np.split(codes.reshape(-1), [len(queries)])
    return np.bincount(candidate_codes, minlength=len(codes))[query_codes]


def _direction_chance(query_ids: np.ndarray, candidate_ids: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Return the exact chance level of one direction.

    With m matches among C candidates, P(rank <= k) = 1 - binom(C - m, k) / binom(C, k) (hypergeometric),
    averaged over the queries; the median rank is the first k at which this average reaches one half.
    """
    matches = _matches_per_query(np.asarray(query_ids), np.asarray(candidate_ids))
    n_candidates = len(candidate_ids)
    drawn = np.arange(n_candidates)  # element k-1: the k-th draw, after k-1 draws without a match
    missed = np.zeros(n_candidates)
    for m, n_queries in zip(*np.unique(matches[matches > 0], return_counts=True), strict=True):
        survival = np.cumprod(np.maximum(n_candidates - m - drawn, 0) / (n_candidates - drawn))
        missed += survival * n_queries / np.count_nonzero(matches)
    recalls = {f"R@{k}": float(1 - missed[min(k, n_candidates) - 1]) for k in ks}
    return {**recalls, "median_rank": float(np.argmax(missed <= 0.5) + 1)}


def _both(to_text: dict[str, float], to_image: dict[str, float]) -> dict[str, float]:
    named = {f"image_to_text_{key}": value for key, value in to_text.items()}
    return named | {f"text_to_image_{key}": value for key, value in to_image.items()}
