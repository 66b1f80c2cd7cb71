"""Evaluation of a model on a split: encode once, then any number of metrics.

Each evaluation is a pure function of `SplitEmbeddings` and the split, listed in `EVALS`; `CHANCE` gives the
level of a random ranking under the same keys, where one exists. Every metric is finite, whatever the model
returns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.geometry import geometry
from rankclip_jax.evals.rank_consistency import CORRELATIONS, ndcg, ndcg_chance, rank_consistency
from rankclip_jax.evals.retrieval import retrieval, retrieval_chance
from rankclip_jax.evals.similarity import score_rows
from rankclip_jax.evals.zeroshot import class_embeddings, zero_shot, zero_shot_chance

GRADED_BY = "subgroup"  # the labelling that grades relevance in NDCG, where a split has it


class Encoder(Protocol):
    """What is evaluated. Both methods batch internally and return unit-norm rows."""

    def encode_image(self, images: np.ndarray | Sequence) -> np.ndarray:
        """N pictures, as in `EvalSplit.images` -> float32 [N, D]."""

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """M texts -> float32 [M, D]."""


@dataclass(frozen=True)
class SplitEmbeddings:
    """One encoding of a split, shared by all evaluations.

    Attributes:
      image_embeds: float [N, D].
      text_embeds: float [M, D].
      class_embeds: float [K, D] of every labelling, by its name.
    """

    image_embeds: np.ndarray
    text_embeds: np.ndarray
    class_embeds: Mapping[str, np.ndarray] = field(default_factory=dict)


def evaluate_split(encoder: Encoder, split: EvalSplit, names: Sequence[str]) -> dict[str, float]:
    """Encode ``split`` and return flat metrics such as ``test_style/image_to_text_R@1``, all finite."""
    return evaluate_embeddings(embed_split(encoder, split, names), split, names)


def embed_split(encoder: Encoder, split: EvalSplit, names: Sequence[str]) -> SplitEmbeddings:
    """Encode what the evaluations ``names`` need of ``split``; an empty split is a `UserError`."""
    for name in names:
        lookup(EVALS, name, "evaluation")
    if len(split.images) == 0 or len(split.texts) == 0:
        raise UserError(
            f"evaluation split {split.name!r} has {len(split.images)} pictures and {len(split.texts)} texts: "
            "it needs at least one of each. Drop it from the evaluations or check the data."
        )
    labellings = split.classes if "zero_shot" in names else {}
    return SplitEmbeddings(
        image_embeds=np.asarray(encoder.encode_image(split.images)),
        text_embeds=np.asarray(encoder.encode_text(list(split.texts))),
        class_embeds={
            name: class_embeddings(encoder.encode_text, classes.names, classes.templates)
            for name, classes in labellings.items()
        },
    )


def metric_names(split: EvalSplit, names: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that `evaluate_split` will give, found on a few rows of the split, without a model."""
    rows = [np.union1d(found[:8], 0).astype(int) for found in paired_rows(split.image_ids, split.text_ids)]
    return tuple(evaluate_split(_Constant(), _some_rows(split, *rows), names))


class _Constant:
    """Encodes everything alike: enough to ask which metrics there are."""

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        return np.ones((len(images), 1), np.float32)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


def _some_rows(split: EvalSplit, images: np.ndarray, texts: np.ndarray) -> EvalSplit:
    """Return a split of some of the pictures and some of the texts, with all classes."""
    if len(split.images) == 0 or len(split.texts) == 0:
        return split
    classes = {
        name: replace(kind, image_labels=kind.image_labels[images], text_labels=kind.text_labels[texts])
        for name, kind in split.classes.items()
    }
    return replace(
        split,
        images=split.images[images],
        image_ids=split.image_ids[images],
        texts=tuple(split.texts[row] for row in texts),
        text_ids=split.text_ids[texts],
        classes=classes,
    )


def evaluate_embeddings(embeds: SplitEmbeddings, split: EvalSplit, names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of ``names`` for embeddings that `embed_split` made, under ``<split>/<metric>``."""
    found = {}
    for name in names:
        found |= lookup(EVALS, name, "evaluation")(embeds, split)
    return {f"{split.name}/{key}": float(value) for key, value in found.items()}


def chance_levels(split: EvalSplit, names: Sequence[str]) -> dict[str, float]:
    """Return the level of a random ranking under `evaluate_split`'s keys, for those that have one."""
    found = {}
    for name in names:
        found |= lookup(CHANCE, name, "evaluation")(split)
    return {f"{split.name}/{key}": float(value) for key, value in found.items()}


def paired_rows(image_ids: np.ndarray, text_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int [P] picture rows and int [P] text rows: the first of each concept that has both."""
    images, image_rows = np.unique(image_ids, return_index=True)
    texts, text_rows = np.unique(text_ids, return_index=True)
    _, in_images, in_texts = np.intersect1d(images, texts, return_indices=True)
    return image_rows[in_images], text_rows[in_texts]


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
