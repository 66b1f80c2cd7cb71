"""How consistently images and texts rank each other, which is what RankCLIP trains.

Letters: N pairs (one image and one text of a concept), A anchors, D embedding, Q queries, C candidates, k cut-off.

In-modal: an anchor image's similarities to the other N - 1 images are compared with its text's similarities to the
other N - 1 texts. Cross-modal: the image's similarities to the other texts are compared with its text's similarities
to the other images: a row of the matrix with its column. Graded retrieval: NDCG with relevance from a labelling.
"""

from collections.abc import Callable

import numpy as np

from rankclip_jax.evals.rank_correlation import kendall_tau, spearman
from rankclip_jax.evals.similarity import STEPS, ScoreRows, Scores, finite_rows, row_blocks

MAX_ANCHORS = 256
SEED = 0
CORRELATIONS = ("in_modal_kendall_tau", "in_modal_spearman", "cross_modal_kendall_tau", "cross_modal_spearman")
OWN_GAIN, SHARED_GAIN = 3, 1  # 2^relevance - 1: the query's concept has relevance 2, its label relevance 1
_KEY_STEP = 4  # an integer above the largest gain
_OUT_OF_RANGE = 4 * STEPS  # beyond any cosine: ranks NaN first or last


def rank_consistency(
    image_embeds: np.ndarray, text_embeds: np.ndarray, *, max_anchors: int = MAX_ANCHORS, seed: int = SEED
) -> dict[str, float]:
    """Return the mean Kendall tau-a and Spearman's rho over anchors, in-modal and cross-modal.

    Pass each concept once: a duplicate is a trivially equal item in both lists. With more than ``max_anchors`` pairs,
    a random subset of anchors is used; lists always hold all N - 1 items. Tied items, and pairs with a NaN embedding,
    contribute 0. With fewer than 3 pairs all values are 0.

    Args:
      image_embeds, text_embeds: float [N, D], unit norm; row n of both is pair n.
      max_anchors: largest number of anchors A.
      seed: draws the random subset of anchors.
    """
    n_pairs = len(image_embeds)
    valid = finite_rows(image_embeds, text_embeds)
    drawn = np.random.default_rng(seed).permutation(n_pairs)[:max_anchors]
    # Anchors are indices into the valid rows. Invalid anchors score 0: `share` accounts for them.
    anchors = (np.cumsum(valid) - 1)[np.sort(drawn[valid[drawn]])]
    share = len(anchors) / max(1, len(drawn))
    v, t = (np.asarray(embeds[valid], np.float64) for embeds in (image_embeds, text_embeds))
    in_modal = _agreement(Scores(v[anchors], v), Scores(t[anchors], t), anchors, n_pairs)
    cross_modal = _agreement(Scores(v[anchors], t), Scores(t[anchors], v), anchors, n_pairs)
    return {name: share * value for name, value in zip(CORRELATIONS, in_modal + cross_modal, strict=True)}


def _agreement(scores_a: Scores, scores_b: Scores, anchors: np.ndarray, n_pairs: int) -> tuple[float, float]:
    """Return the mean tau and rho between the rows of both scores; the row of anchor i is compared without item i."""
    n = len(scores_a.candidates)
    if n < 3 or len(anchors) == 0:
        return 0.0, 0.0
    tau = rho = 0.0
    for block in row_blocks(len(anchors), 8 * n):  # ranking keeps about eight arrays of this size
        others = np.arange(n)[None, :] != anchors[block, None]
        list_a, list_b = (scores.rows(block)[others].reshape(-1, n - 1) for scores in (scores_a, scores_b))
        tau += kendall_tau(list_a, list_b).sum()
        rho += spearman(list_a, list_b).sum()
    # Items lost to NaN still count in the denominators: pairs for tau, (n^3 - n) for rho.
    full, kept = n_pairs - 1, n - 1
    tau *= kept * (kept - 1) / (full * (full - 1))
    rho *= (kept**3 - kept) / (full**3 - full)
    return float(tau / len(anchors)), float(rho / len(anchors))


def ndcg(
    rows: ScoreRows,
    query_ids: np.ndarray,
    candidate_ids: np.ndarray,
    query_labels: np.ndarray,
    candidate_labels: np.ndarray,
    k: int = 10,
) -> float:
    """Return mean NDCG@k with gain 3 for the query's own concept, 1 for the same label, 0 otherwise.

    DCG@k = sum_{r=1..k} gain_r / log2(r + 1), divided by its largest possible value (Jarvelin & Kekalainen 2002;
    gain 2^relevance - 1 with relevance 2, 1, 0). Among tied candidates the least relevant rank first. With a NaN score,
    a relevant candidate earns nothing and an irrelevant one ranks first. Queries without a relevant candidate are left
    out; if no query remains, the result is 0.

    Args:
      rows: ``rows(slice) -> float [., C]``, quantised scores.
      query_ids, query_labels: int [Q].
      candidate_ids, candidate_labels: int [C].
      k: cut-off.
    """
    judged = (query_ids, candidate_ids, query_labels, candidate_labels)
    return _mean_ndcg(lambda block, gains: _dcg(_pessimistic_top(rows(block), gains, k)), judged, k)


def ndcg_chance(query_ids, candidate_ids, query_labels, candidate_labels, k: int = 10) -> float:
    """Return the expected `ndcg` of a random ranking: every rank then has the query's mean gain."""
    discounts = _discounts(min(k, len(candidate_ids))).sum()
    judged = (query_ids, candidate_ids, query_labels, candidate_labels)
    return _mean_ndcg(lambda block, gains: gains.mean(axis=1) * discounts, judged, k)


def _mean_ndcg(dcg: Callable[[slice, np.ndarray], np.ndarray], judged: tuple[np.ndarray, ...], k: int) -> float:
    """Return the mean of `dcg` / ideal DCG over the queries that have a relevant candidate; `judged` as in `ndcg`."""
    query_ids, candidate_ids, query_labels, candidate_labels = judged
    total, n_queries = 0.0, 0
    for block in row_blocks(len(query_ids), len(candidate_ids)):
        gains = _gains(query_ids[block], candidate_ids, query_labels[block], candidate_labels)
        ideal = _dcg(_largest(gains, k))
        answerable = ideal > 0
        total += (dcg(block, gains)[answerable] / ideal[answerable]).sum()
        n_queries += np.count_nonzero(answerable)
    return float(total / max(1, n_queries))


def _gains(query_ids, candidate_ids, query_labels, candidate_labels) -> np.ndarray:
    shared = np.where(query_labels[:, None] == candidate_labels[None, :], SHARED_GAIN, 0)
    return np.where(query_ids[:, None] == candidate_ids[None, :], OWN_GAIN, shared)


def _pessimistic_top(scores: np.ndarray, gains: np.ndarray, k: int) -> np.ndarray:
    """Return the gains of the first k ranks, [., k]: sorted by score, and among ties the smaller gain first.

    Scores are integers, so one sortable key holds score and gain, and the gain can be read back from it.
    """
    missing = np.isnan(scores)
    scores = np.where(missing, np.where(gains > 0, -_OUT_OF_RANGE, _OUT_OF_RANGE), scores)
    gains = np.where(missing, 0, gains)
    return (-_largest(_KEY_STEP * scores - gains, k)) % _KEY_STEP


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k largest values of each row, in descending order."""
    k = min(k, values.shape[1])
    top = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k :]
    return np.sort(top, axis=1)[:, ::-1]


def _dcg(gains: np.ndarray) -> np.ndarray:
    return gains @ _discounts(gains.shape[1])


def _discounts(k: int) -> np.ndarray:
    return 1 / np.log2(np.arange(k) + 2)
