"""Do images and texts rank the world alike? What RankCLIP trains for, measured.

Letters: N pairs (one image and one text of a concept), A anchors, D embedding, Q queries, C candidates.

In-modal: for an anchor, the list of its similarities to the other N - 1 images against the list of its
text's similarities to the other N - 1 texts. Cross-modal: the image against the other texts, and its text
against the other images (a row against its column). Graded retrieval: NDCG with relevance from a labelling.
"""

import numpy as np

from rankclip_jax.evals.rank_correlation import kendall_tau, spearman
from rankclip_jax.evals.similarity import STEPS, ScoreRows, finite_rows, row_blocks, score_rows

MAX_ANCHORS = 256
SEED = 0
CORRELATIONS = (
    "in_modal_kendall_tau",
    "in_modal_spearman",
    "cross_modal_kendall_tau",
    "cross_modal_spearman",
)
OWN_GAIN, SHARED_GAIN = 3, 1  # 2^relevance - 1: own concept has relevance 2, same label has relevance 1
_KEY_STEP = 4  # whole number above the largest gain
_OUT_OF_RANGE = 4 * STEPS  # beyond any cosine, so NaN is placed first or last


def rank_consistency(
    image_embeds: np.ndarray, text_embeds: np.ndarray, max_anchors: int = MAX_ANCHORS, seed: int = SEED
) -> dict[str, float]:
    """Return mean Kendall tau-a and Spearman over anchors, in-modal and cross-modal.

    Every concept should enter once: duplicates would put trivially equal items into both lists. Above
    ``max_anchors`` pairs a subset of anchors drawn with ``seed`` is used; lists always hold all N - 1 items.
    Tied items, and pairs with a NaN embedding, contribute 0; fewer than 3 pairs have no order to compare: 0.

    Args:
      image_embeds: float [N, D], unit norm.
      text_embeds: float [N, D], unit norm; row n belongs to image n.
      max_anchors: number of anchors A at most.
      seed: of the anchors' draw.
    """
    n_pairs = len(image_embeds)
    valid = finite_rows(image_embeds, text_embeds)
    drawn = np.random.default_rng(seed).permutation(n_pairs)[:max_anchors]
    # Anchors as places among the valid rows; those that are not valid score 0 through `share`.
    anchors = (np.cumsum(valid) - 1)[np.sort(drawn[valid[drawn]])]
    share = len(anchors) / max(1, len(drawn))
    image_embeds, text_embeds = image_embeds[valid], text_embeds[valid]
    in_modal = _agreement(image_embeds, image_embeds, text_embeds, text_embeds, anchors, n_pairs)
    cross_modal = _agreement(image_embeds, text_embeds, text_embeds, image_embeds, anchors, n_pairs)
    return {name: share * value for name, value in zip(CORRELATIONS, in_modal + cross_modal, strict=True)}


def _agreement(query_a, candidates_a, query_b, candidates_b, anchors, n_pairs) -> tuple[float, float]:
    """Return the mean tau and rho between row i of a and row i of b, without item i, over the anchors i."""
    n = len(candidates_a)
    if n < 3 or len(anchors) == 0:
        return 0.0, 0.0
    rows_a, rows_b = score_rows(query_a[anchors], candidates_a), score_rows(query_b[anchors], candidates_b)
    tau = rho = 0.0
    for block in row_blocks(len(anchors), 8 * n):  # sorting keeps about eight arrays of this size alive
        others = np.arange(n)[None, :] != anchors[block, None]
        list_a = rows_a(block)[others].reshape(-1, n - 1)
        list_b = rows_b(block)[others].reshape(-1, n - 1)
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

    DCG@k = sum_{r=1..k} gain_r / log2(r + 1), over its largest possible value (Jarvelin & Kekalainen 2002;
    gain 2^relevance - 1 with relevance 2, 1, 0). Among tied candidates the least relevant come first; a
    relevant candidate with a NaN score earns nothing, an irrelevant one comes first. Queries with nothing
    relevant are left out; if none is left the result is 0.

    Args:
      rows: ``rows(slice) -> float [., C]``, quantised scores.
      query_ids: int [Q]. candidate_ids: int [C].
      query_labels: int [Q]. candidate_labels: int [C].
      k: length of the list that is judged.
    """
    total, n_queries = 0.0, 0
    for block in row_blocks(len(query_ids), len(candidate_ids)):
        gains = _gains(query_ids[block], candidate_ids, query_labels[block], candidate_labels)
        ideal = _dcg(_largest(gains, k))
        answerable = ideal > 0
        found = _dcg(_pessimistic_top(rows(block), gains, k))
        total += (found[answerable] / ideal[answerable]).sum()
        n_queries += np.count_nonzero(answerable)
    return float(total / max(1, n_queries))


def ndcg_chance(query_ids, candidate_ids, query_labels, candidate_labels, k: int = 10) -> float:
    """Return the expected `ndcg` of a random ranking: every place then has the query's mean gain."""
    total, n_queries = 0.0, 0
    for block in row_blocks(len(query_ids), len(candidate_ids)):
        gains = _gains(query_ids[block], candidate_ids, query_labels[block], candidate_labels)
        ideal = _dcg(_largest(gains, k))
        answerable = ideal > 0
        flat = gains.mean(axis=1)[answerable] * _discounts(min(k, len(candidate_ids))).sum()
        total += (flat / ideal[answerable]).sum()
        n_queries += np.count_nonzero(answerable)
    return float(total / max(1, n_queries))


def _gains(query_ids, candidate_ids, query_labels, candidate_labels) -> np.ndarray:
    shared = np.where(query_labels[:, None] == candidate_labels[None, :], SHARED_GAIN, 0)
    return np.where(query_ids[:, None] == candidate_ids[None, :], OWN_GAIN, shared)


def _pessimistic_top(scores: np.ndarray, gains: np.ndarray, k: int) -> np.ndarray:
    """Return the gains of the first k places, [., k]: by score, and among ties the smaller gain first.

    Scores are whole numbers, so score and gain pack into one sortable key and the gain can be read back.
    """
    missing = np.isnan(scores)
    scores = np.where(missing, np.where(gains > 0, -_OUT_OF_RANGE, _OUT_OF_RANGE), scores)
    gains = np.where(missing, 0, gains)
    return (-_largest(_KEY_STEP * scores - gains, k)) % _KEY_STEP


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k largest values of each row, in falling order."""
    k = min(k, values.shape[1])
    top = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k :]
    return np.sort(top, axis=1)[:, ::-1]


def _dcg(gains: np.ndarray) -> np.ndarray:
    return gains @ _discounts(gains.shape[1])


def _discounts(k: int) -> np.ndarray:
    return 1 / np.log2(np.arange(k) + 2)
