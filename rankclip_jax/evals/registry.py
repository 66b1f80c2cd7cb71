"""The evaluations by name: `EVALS`, and under the same keys the level of a random ranking: `CHANCE`.

Each is a pure function of `SplitEmbeddings` and the split. Every metric is finite, whatever the model returns.
"""

from collections.abc import Callable

import numpy as np

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.evals.embeddings import SplitEmbeddings, paired_rows
from rankclip_jax.evals.geometry import geometry
from rankclip_jax.evals.rank_consistency import CORRELATIONS, ndcg, ndcg_chance, rank_consistency
from rankclip_jax.evals.retrieval import retrieval, retrieval_chance
from rankclip_jax.evals.similarity import score_rows
from rankclip_jax.evals.zeroshot import zero_shot, zero_shot_chance

GRADED_BY = "subgroup"  # the labelling that grades relevance in NDCG, where a split has it


def _retrieval(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    return retrieval(embeds.image_embeds, embeds.text_embeds, split.image_ids, split.text_ids)


def _retrieval_chance(split: EvalSplit) -> dict[str, float]:
    return retrieval_chance(split.image_ids, split.text_ids)


def _zero_shot(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    found = {}
    for name, classes in split.classes.items():
        tops = zero_shot(embeds.image_embeds, embeds.class_embeds[name], classes.image_labels)
        found |= {f"zero_shot_{name}_{key}": value for key, value in tops.items()}
    return found


def _zero_shot_chance(split: EvalSplit) -> dict[str, float]:
    return {
        f"zero_shot_{name}_{key}": value
        for name, classes in split.classes.items()
        for key, value in zero_shot_chance(len(classes.names)).items()
    }


def _rank_consistency(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    images, texts = paired_rows(split.image_ids, split.text_ids)
    found = rank_consistency(embeds.image_embeds[images], embeds.text_embeds[texts])
    if GRADED_BY in split.classes:
        labels = split.classes[GRADED_BY]
        as_images, as_texts = (split.image_ids, labels.image_labels), (split.text_ids, labels.text_labels)
        v, t = embeds.image_embeds, embeds.text_embeds
        found["image_to_text_NDCG@10"] = ndcg(score_rows(v, t), *_graded(as_images, as_texts))
        found["text_to_image_NDCG@10"] = ndcg(score_rows(t, v), *_graded(as_texts, as_images))
    return found


def _rank_consistency_chance(split: EvalSplit) -> dict[str, float]:
    found = dict.fromkeys(CORRELATIONS, 0.0)
    if GRADED_BY in split.classes:
        labels = split.classes[GRADED_BY]
        as_images, as_texts = (split.image_ids, labels.image_labels), (split.text_ids, labels.text_labels)
        found["image_to_text_NDCG@10"] = ndcg_chance(*_graded(as_images, as_texts))
        found["text_to_image_NDCG@10"] = ndcg_chance(*_graded(as_texts, as_images))
    return found


def _graded(queries, candidates) -> tuple[np.ndarray, ...]:
    """Turn two (ids, labels) pairs into `ndcg`'s order: ids of both, then labels of both."""
    return tuple(np.asarray(array) for array in (queries[0], candidates[0], queries[1], candidates[1]))


def _geometry(embeds: SplitEmbeddings, split: EvalSplit) -> dict[str, float]:
    images, texts = paired_rows(split.image_ids, split.text_ids)
    return geometry(embeds.image_embeds[images], embeds.text_embeds[texts])


def _no_chance_level(split: EvalSplit) -> dict[str, float]:
    return {}


EVALS: dict[str, Callable[[SplitEmbeddings, EvalSplit], dict[str, float]]] = {
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "rank_consistency": _rank_consistency,
    "geometry": _geometry,
}
CHANCE: dict[str, Callable[[EvalSplit], dict[str, float]]] = {
    "retrieval": _retrieval_chance,
    "zero_shot": _zero_shot_chance,
    "rank_consistency": _rank_consistency_chance,
    "geometry": _no_chance_level,
}
