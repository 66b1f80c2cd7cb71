"""Zero-shot classification with prompt templates.

Letters: N images, K classes, P templates, D embedding.

Protocol of CLIP (Radford et al. 2021, 3.1.4): the embedding of a class is the normalised mean of the normalised
embeddings of its prompts. Ties and NaN count against the model, as in `retrieval`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rankclip_jax.data.records import fill_template
from rankclip_jax.evals.retrieval import retrieval
from rankclip_jax.evals.similarity import Scores

TOP_KS = (1, 3, 5)


def class_embeddings(
    encode_text: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Return float64 [K, D], unit norm: normalise each prompt's embedding, average over P, and normalise again.

    Args:
      encode_text: list of texts -> float [., D].
      names: K class names.
      templates: P prompt templates; `fill_template` inserts the class name.
    """
    prompts = [fill_template(template, name) for name in names for template in templates]
    embeds = _normalise(np.asarray(encode_text(prompts), np.float64))
    return _normalise(embeds.reshape(len(names), len(templates), -1).mean(axis=1))


def zero_shot(scores: Scores, labels: np.ndarray, ks: Sequence[int] = TOP_KS) -> dict[str, float]:
    """Return the accuracies ``top1``, ``top3``, ... for every k below K; for larger k they would be 1.

    Args:
      scores: N images and K classes.
      labels: int [N], index of the true class.
      ks: cut-offs k.
    """
    n_classes = len(scores.candidates)
    found = retrieval(scores, labels, np.arange(n_classes), ks)
    return {f"top{k}": found[f"image_to_text_R@{k}"] for k in ks if k < n_classes}


def zero_shot_chance(n_classes: int, ks: Sequence[int] = TOP_KS) -> dict[str, float]:
    """Return the accuracy of a random ranking of K classes, k / K, under `zero_shot`'s keys."""
    return {f"top{k}": k / n_classes for k in ks if k < n_classes}


def _normalise(embeds: np.ndarray) -> np.ndarray:
    # A zero mean (prompts that cancel out) stays zero: such classes tie, and ties count against the model.
    return embeds / np.maximum(np.linalg.norm(embeds, axis=-1, keepdims=True), 1e-12)
