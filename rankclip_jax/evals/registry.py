"""The evaluations by name: `EVALS` computes metrics, and `CHANCE` the values of the same metrics for a random ranking.

An evaluation is a function of `SplitEmbeddings` and the split. It does not read the scores of images and texts itself:
all evaluations of a split get each tile of these scores from the same computation (`split.evaluate_embeddings`). Every
metric is finite, whatever the model returns.
"""

from collections.abc import Callable
from typing import NamedTuple

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.evals.embeddings import SplitEmbeddings, paired_rows
from rankclip_jax.evals.geometry import geometry
from rankclip_jax.evals.graded import GradedRanks, Judged, ndcg_chance
from rankclip_jax.evals.rank_consistency import CORRELATIONS, rank_consistency
from rankclip_jax.evals.retrieval import MatchRanks, retrieval_chance
from rankclip_jax.evals.similarity import Scores, TileReader
from rankclip_jax.evals.zeroshot import zero_shot, zero_shot_chance

GRADED_BY = "subgroup"  # the labelling that defines relevance in NDCG; splits without it have no NDCG


class Evaluation(NamedTuple):
    """One evaluation of a split.

    Attributes:
      metrics: () -> {metric: value}, to call after the readers have read all tiles.
      readers: functions that take the tiles of the scores of images and texts.
    """

    metrics: Callable[[], dict[str, float]]
    readers: tuple[TileReader, ...] = ()


def _retrieval(embeds: SplitEmbeddings, split: EvalSplit) -> Evaluation:
    ranks = MatchRanks(embeds.scores, split.image_ids, split.text_ids)
    return Evaluation(ranks.metrics, (ranks.read,))


def _zero_shot(embeds: SplitEmbeddings, split: EvalSplit) -> Evaluation:
    def metrics() -> dict[str, float]:
        found = {}
        for name, classes in split.classes.items():
            scores = Scores(embeds.scores.queries, embeds.class_embeds[name])
            found |= {f"zero_shot_{name}_{key}": x for key, x in zero_shot(scores, classes.image_labels).items()}
        return found

    return Evaluation(metrics)


def _zero_shot_chance(split: EvalSplit) -> dict[str, float]:
    return {
        f"zero_shot_{name}_{key}": value
        for name, classes in split.classes.items()
        for key, value in zero_shot_chance(len(classes.names)).items()
    }


def _rank_consistency(embeds: SplitEmbeddings, split: EvalSplit) -> Evaluation:
    def correlations() -> dict[str, float]:
        images, texts = paired_rows(split.image_ids, split.text_ids)
        return rank_consistency(embeds.scores.queries[images], embeds.scores.candidates[texts])

    if GRADED_BY not in split.classes:
        return Evaluation(correlations)
    ranks = GradedRanks(*_judged(split))
    return Evaluation(lambda: correlations() | ranks.metrics(), (ranks.read,))


def _rank_consistency_chance(split: EvalSplit) -> dict[str, float]:
    graded_chance = ndcg_chance(*_judged(split)) if GRADED_BY in split.classes else {}
    return dict.fromkeys(CORRELATIONS, 0.0) | graded_chance


def _judged(split: EvalSplit) -> tuple[Judged, Judged]:
    """Return the images and the texts with what defines their relevance in NDCG."""
    labels = split.classes[GRADED_BY]
    return Judged(split.image_ids, labels.image_labels), Judged(split.text_ids, labels.text_labels)


def _geometry(embeds: SplitEmbeddings, split: EvalSplit) -> Evaluation:
    images, texts = paired_rows(split.image_ids, split.text_ids)
    return Evaluation(lambda: geometry(embeds.image_embeds[images], embeds.text_embeds[texts]))


EVALS: dict[str, Callable[[SplitEmbeddings, EvalSplit], Evaluation]] = {
    "retrieval": _retrieval,
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
