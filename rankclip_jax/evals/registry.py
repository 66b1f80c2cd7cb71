"""The evaluations by name: `EVALS` computes metrics, and `CHANCE` the values of the same metrics for a random ranking.

An evaluation is a pure function of `SplitEmbeddings` and the split. Every metric is finite, whatever the model returns.
"""

from collections.abc import Callable

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.evals.embeddings import SplitEmbeddings, paired_rows
from rankclip_jax.evals.geometry import geometry
from rankclip_jax.evals.rank_consistency import CORRELATIONS, ndcg, ndcg_chance, rank_consistency
from rankclip_jax.evals.retrieval import retrieval, retrieval_chance
from rankclip_jax.evals.similarity import Scores
from rankclip_jax.evals.zeroshot import zero_shot, zero_shot_chance

GRADED_BY = "subgroup"  # the labelling that defines relevance in NDCG; splits without it have no NDCG


def _zero_shot(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    found = {}
    for name, classes in split.classes.items():
        scores = Scores(embeds.scores.queries, embeds.class_embeds[name])
        found |= {f"zero_shot_{name}_{key}": value for key, value in zero_shot(scores, classes.image_labels).items()}
    return found


def _zero_shot_chance(split: EvalSplit) -> dict[str, float]:
    return {
        f"zero_shot_{name}_{key}": value
        for name, classes in split.classes.items()
        for key, value in zero_shot_chance(len(classes.names)).items()
    }


def _rank_consistency(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    images, texts = paired_rows(split.image_ids, split.text_ids)
    found = rank_consistency(embeds.scores.queries[images], embeds.scores.candidates[texts])
    if GRADED_BY in split.classes:
        ids, labels = _judged(split)
        found["image_to_text_NDCG@10"] = ndcg(embeds.scores.rows, *ids, *labels)
        found["text_to_image_NDCG@10"] = ndcg(embeds.scores.columns, *ids[::-1], *labels[::-1])
    return found


def _rank_consistency_chance(split: EvalSplit) -> dict[str, float]:
    found = dict.fromkeys(CORRELATIONS, 0.0)
    if GRADED_BY in split.classes:
        ids, labels = _judged(split)
        found["image_to_text_NDCG@10"] = ndcg_chance(*ids, *labels)
        found["text_to_image_NDCG@10"] = ndcg_chance(*ids[::-1], *labels[::-1])
    return found


def _judged(split: EvalSplit) -> tuple[tuple, tuple]:
    """Return (image ids, text ids) and (image labels, text labels), which define relevance in NDCG."""
    labels = split.classes[GRADED_BY]
    return (split.image_ids, split.text_ids), (labels.image_labels, labels.text_labels)


def _geometry(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    images, texts = paired_rows(split.image_ids, split.text_ids)
    return geometry(embeds.image_embeds[images], embeds.text_embeds[texts])


EVALS: dict[str, Callable[[SplitEmbeddings, EvalSplit], dict[str, float]]] = {
    "retrieval": lambda embeds, split: retrieval(embeds.scores, split.image_ids, split.text_ids),
    "zero_shot": _zero_shot,
    "rank_consistency": _rank_consistency,
    "geometry": _geometry,
}
CHANCE: dict[str, Callable[[EvalSplit], dict[str, float]]] = {
    "retrieval": lambda split: retrieval_chance(split.image_ids, split.text_ids),
    "zero_shot": _zero_shot_chance,
    "rank_consistency": _rank_consistency_chance,
    "geometry": lambda split: {},  # no chance level
}
