"""Image-text retrieval: R@K in both directions.

Letters: N images, M texts, Q queries, C candidates of one direction.

The standard protocol (Karpathy splits): an image with several captions is a hit if *any* of them is among the first K;
every caption is a query. Ranks are counted in blocks of rows, without sorting. Ties and NaN count against the model: a
constant model scores 0, not 1.
"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.evals.similarity import ScoreRows, Scores, row_blocks

KS = (1, 5, 10)


def retrieval(scores: Scores, image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
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
    return both_directions(scores.rows, scores.columns, image_ids, text_ids, ks)


def both_directions(
    image_rows: ScoreRows, text_rows: ScoreRows, image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Return `retrieval`'s metrics from the score rows of images [., M] and of texts [., N]."""
    to_text = direction_metrics(image_rows, image_ids, text_ids, ks)
    to_image = direction_metrics(text_rows, text_ids, image_ids, ks)
    return _both(to_text, to_image)


def retrieval_chance(image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Return the expected R@K and median rank of a uniformly random ranking, under `retrieval`'s keys."""
    return _both(_direction_chance(image_ids, text_ids, ks), _direction_chance(text_ids, image_ids, ks))


def direction_metrics(
    rows: ScoreRows, query_ids: np.ndarray, candidate_ids: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Return ``R@K``, ``median_rank``, ``queries`` for one direction, from blocks of score rows [., C]."""
    query_ids, candidate_ids = np.asarray(query_ids), np.asarray(candidate_ids)
    answerable = _matches_per_query(query_ids, candidate_ids) > 0
    ranks = _ranks(rows, query_ids, candidate_ids)[answerable]
    recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in ks}
    # A query whose matches are all NaN has rank infinity; for the median it ranks last.
    median = float(np.median(np.minimum(ranks, len(candidate_ids))))
    return {**recalls, "median_rank": median, "queries": float(len(ranks))}


def _ranks(rows: ScoreRows, query_ids: np.ndarray, candidate_ids: np.ndarray) -> np.ndarray:
    """Return float [Q]: rank of each query's best match, infinity if all its matches have NaN scores."""
    ranks = np.empty(len(query_ids))
    for block in row_blocks(len(query_ids), len(candidate_ids)):
        scores = rows(block)
        match = query_ids[block, None] == candidate_ids[None, :]
        missing = np.isnan(scores)
        best = np.where(match & ~missing, scores, -np.inf).max(axis=1, keepdims=True)
        beaten_by = ((scores >= best) | missing) & ~match
        ranks[block] = np.where(np.isneginf(best[:, 0]), np.inf, 1 + beaten_by.sum(axis=1))
    return ranks


def _matches_per_query(query_ids: np.ndarray, candidate_ids: np.ndarray) -> np.ndarray:
    """Return int [Q]: the number of candidates that match each query; raise `UserError` if no query has a match."""
    ids, counts = np.unique(candidate_ids, return_counts=True)
    if len(ids) == 0 or len(query_ids) == 0:
        raise UserError(
            f"retrieval has {len(query_ids)} queries and {len(candidate_ids)} candidates: "
            "an evaluation split needs at least one image and one text."
        )
    found = np.minimum(np.searchsorted(ids, query_ids), len(ids) - 1)
    matches = np.where(ids[found] == query_ids, counts[found], 0)
    if not matches.any():
        raise UserError(
            "retrieval has no query with a match: images and texts share no id. "
            "Check image_ids and text_ids of the evaluation split."
        )
    return matches


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
