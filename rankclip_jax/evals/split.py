"""Evaluate a model on one split: encode it once, then compute any number of metrics."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rankclip_jax.data.records import EvalSplit
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.embeddings import ImageTextEncoder, SplitEmbeddings, paired_rows
from rankclip_jax.evals.registry import CHANCE, EVALS
from rankclip_jax.evals.similarity import read_tiles
from rankclip_jax.evals.zeroshot import class_embeddings


def evaluate_split(encoder: ImageTextEncoder, split: EvalSplit, names: Sequence[str]) -> dict[str, float]:
    """Encode a split and return flat metrics such as ``test_style/image_to_text_R@1``, all finite."""
    return evaluate_embeddings(embed_split(encoder, split, names), split, names)


def embed_split(encoder: ImageTextEncoder, split: EvalSplit, names: Sequence[str]) -> SplitEmbeddings:
    """Encode the images and texts of a split, and the class prompts if ``names`` include zero-shot classification.

    Raises:
      UserError: the split is empty, or an evaluation is unknown.
    """
    for name in names:
        lookup(EVALS, name, "evaluation")
    if len(split.images) == 0 or len(split.texts) == 0:
        raise UserError(
            f"evaluation split {split.name!r} has {len(split.images)} images and {len(split.texts)} texts: "
            "it needs at least one of each. Leave the split out or check the data."
        )
    image_embeds = np.asarray(encoder.encode_image(split.images))
    text_embeds = np.asarray(encoder.encode_text(list(split.texts)))
    class_embeds = {
        name: class_embeddings(encoder.encode_text, classes.names, classes.templates)
        for name, classes in (split.classes.items() if "zero_shot" in names else ())
    }
    return SplitEmbeddings(image_embeds, text_embeds, class_embeds)


def metric_names(split: EvalSplit, names: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of `evaluate_split`'s result; this needs two rows of the split at most, and no model."""
    # One pair: correlations of longer lists would import scipy.stats, seconds before training starts.
    rows = [np.union1d(found[:1], 0).astype(int) for found in paired_rows(split.image_ids, split.text_ids)]
    return tuple(evaluate_split(_Constant(), _some_rows(split, *rows), names))


class _Constant:
    """Encodes every image and text to the same value, which is enough to find the names of metrics."""

    def encode_image(self, inputs: np.ndarray | list[str]) -> np.ndarray:
        return np.ones((len(inputs), 1), np.float32)

    encode_text = encode_image


def _some_rows(split: EvalSplit, images: np.ndarray, texts: np.ndarray) -> EvalSplit:
    """Return a split with some of the images and texts, and all classes."""
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
    """Return the metrics of the evaluations ``names`` for `embed_split`'s result, under ``<split>/<metric>``."""
    evaluations = [lookup(EVALS, name, "evaluation")(embeds, split) for name in names]
    readers = [reader for evaluation in evaluations for reader in evaluation.readers]
    if readers:
        read_tiles(embeds.scores, readers)
    found = {key: value for evaluation in evaluations for key, value in evaluation.metrics().items()}
    return {f"{split.name}/{key}": float(value) for key, value in found.items()}


def chance_levels(split: EvalSplit, names: Sequence[str]) -> dict[str, float]:
    """Return the chance level of each metric that has one (for a random ranking), under `evaluate_split`'s keys."""
    found = {}
    for name in names:
        found |= lookup(CHANCE, name, "evaluation")(split)
    return {f"{split.name}/{key}": float(value) for key, value in found.items()}
