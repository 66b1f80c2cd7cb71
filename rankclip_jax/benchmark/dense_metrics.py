"""All metrics of an evaluation in the straightforward way: from whole matrices of scores, anchor by anchor.

Letters: N images, M texts, Q queries, C candidates.

It expects finite embeddings and one image for each id. Ties count against the model, as in `evals`.
"""

import numpy as np
from scipy.stats import kendalltau, spearmanr

from rankclip_jax.data.records import EvalSplit

KS = (1, 5, 10)
DISCOUNTS = 1 / np.log2(np.arange(10) + 2)
MAX_ANCHORS = 256


def dense_metrics(embeds: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], split: EvalSplit) -> dict[str, float]:
    """Return the metrics of `evals.registry.EVALS` under the same names, without ``*_queries``."""
    v, t = (np.asarray(x, np.float64) for x in embeds[:2])
    scores = np.round(v @ t.T, 9)
    match = split.image_ids[:, None] == split.text_ids[None, :]
    found = _retrieval("image_to_text", scores, match) | _retrieval("text_to_image", scores.T, match.T)
    for name, classes in split.classes.items():
        of_classes = np.round(v @ np.asarray(embeds[2][name], np.float64).T, 9)
        ranks = _ranks(of_classes, classes.image_labels[:, None] == np.arange(len(classes.names))[None, :])
        found |= {f"zero_shot_{name}_top{k}": np.mean(ranks <= k) for k in (1, 3, 5)}
        gains = np.where(match, 3, classes.image_labels[:, None] == classes.text_labels[None, :])
        found["image_to_text_NDCG@10"] = _ndcg(scores, gains)
        found["text_to_image_NDCG@10"] = _ndcg(scores.T, gains.T)
    pairs = t[np.argmax(match, axis=1)]
    return {
        f"{split.name}/{key}": float(x) for key, x in (found | _consistency(v, pairs) | _geometry(v, pairs)).items()
    }


def _retrieval(way: str, scores: np.ndarray, match: np.ndarray) -> dict[str, float]:
    ranks = _ranks(scores, match)
    return {f"{way}_R@{k}": np.mean(ranks <= k) for k in KS} | {f"{way}_median_rank": np.median(ranks)}


def _ranks(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    best = np.where(match, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best) & ~match).sum(axis=1)


def _ndcg(scores: np.ndarray, gains: np.ndarray) -> float:
    order = np.lexsort((gains, -scores), axis=1)[:, : len(DISCOUNTS)]
    ideal = -np.sort(-gains, axis=1)[:, : len(DISCOUNTS)]
    dcg = np.take_along_axis(gains, order, axis=1) @ DISCOUNTS[: order.shape[1]]
    return np.mean(dcg / (ideal @ DISCOUNTS[: ideal.shape[1]]))


def _consistency(v: np.ndarray, t: np.ndarray) -> dict[str, float]:
    anchors = np.sort(np.random.default_rng(0).permutation(len(v))[:MAX_ANCHORS])
    lists = {"in_modal": (v @ v.T, t @ t.T), "cross_modal": (v @ t.T, t @ v.T)}
    found = {}
    for name, (a, b) in lists.items():
        rows = [(np.delete(a[i], i), np.delete(b[i], i)) for i in anchors]
        found[f"{name}_kendall_tau"] = np.mean([kendalltau(x, y).statistic for x, y in rows])
        found[f"{name}_spearman"] = np.mean([spearmanr(x, y).statistic for x, y in rows])
    return found


def _geometry(v: np.ndarray, t: np.ndarray) -> dict[str, float]:
    squared = (v**2).sum(axis=1)[:, None] + (t**2).sum(axis=1)[None, :] - 2 * v @ t.T
    below = squared[np.tril_indices(len(v), -1)]
    return {
        "alignment": np.mean(np.diag(squared)),
        "uniformity": np.log(np.mean(np.exp(-2 * below))),
        "modality_gap": np.linalg.norm(v.mean(axis=0) - t.mean(axis=0)),
    }
