"""The map of the embeddings in two dimensions, and the plot of the modality gap.

Letters: N images, M texts.
"""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from rankclip_jax.evals.embeddings import paired_rows
from rankclip_jax.report.neighbours import Neighbours
from rankclip_jax.report.projection import pca, project
from rankclip_jax.report.run_folder import Labelling, ReportSplit

GRID = 4000  # coordinates are integers from 0 to this
N_TEXTS, N_IMAGES = 5, 8
MAX_COLOURS = 10
CENTROID_IMAGES = 3
SHARPNESS = 50.0  # a text lies at the mean of its nearest images, weighted by exp(SHARPNESS * cosine)
GAP_PAIRS = 250
GAP_SIZE = 300


@dataclass(frozen=True)
class Gap:
    """The joint PCA of images and texts as a drawing, and the distance of their means."""

    svg: Markup
    distance: float
    n_pairs: int


def map_data(near: Neighbours) -> dict:
    """Return, as JSON values, the data from which the page's script draws the map and answers searches."""
    split = near.split
    method, points = project(split.image_embeds)
    points = _unit_box(points) * GRID
    labelling = colouring(split)
    return {
        "method": method,
        "grid": GRID,
        "columns": split.sheet.columns,
        "rows": split.sheet.rows,
        "cell": list(split.sheet.cell),
        "groups": list(labelling.names) if labelling else [],
        "ids": split.image_ids.tolist(),
        "images": _image_data(near, points, labelling),
        "texts": _text_data(near, _text_points(near, points), labelling),
    }


def _image_data(near: Neighbours, points: np.ndarray, labelling: Labelling | None) -> dict:
    texts = near.texts_of_images(N_TEXTS)
    return {
        "x": _integers(points[:, 0]),
        "y": _integers(points[:, 1]),
        "own": near.own_texts.tolist(),
        "rank": near.image_ranks.tolist(),
        "group": labelling.image_labels.tolist() if labelling else [0] * len(points),
        "texts": texts.tolist(),
        "scores": _integers(1000 * np.take_along_axis(near.scores, texts, axis=1)),
        "floor": _integers(1000 * np.median(near.scores, axis=1)),
        "near": near.images_of_images(N_IMAGES).tolist(),
    }


def _text_data(near: Neighbours, points: np.ndarray, labelling: Labelling | None) -> dict:
    return {
        "x": _integers(points[:, 0]),
        "y": _integers(points[:, 1]),
        "caption": list(near.split.texts),
        "rank": near.text_ranks.tolist(),
        "id": near.split.text_ids.tolist(),
        "group": labelling.text_labels.tolist() if labelling else [0] * len(points),
        "images": near.images_of_texts(N_IMAGES).tolist(),
    }


def colouring(split: ReportSplit) -> Labelling | None:
    """Return the labelling with the most used classes, 2 to `MAX_COLOURS`; its labels are renumbered to these."""
    used_classes = {
        name: np.unique(np.concatenate([labelling.image_labels, labelling.text_labels]))
        for name, labelling in split.labellings.items()
    }
    fitting = [(len(used), name) for name, used in used_classes.items() if 1 < len(used) <= MAX_COLOURS]
    if not fitting:
        return None
    name = max(fitting)[1]
    labelling, used = split.labellings[name], used_classes[name]
    return Labelling(
        names=tuple(labelling.names[i] for i in used),
        image_labels=np.searchsorted(used, labelling.image_labels),
        text_labels=np.searchsorted(used, labelling.text_labels),
    )


def modality_gap(near: Neighbours) -> Gap | None:
    """Draw images and texts in the plane of their joint PCA, each pair joined by a line; None below 3 pairs."""
    images, texts = paired_rows(near.split.image_ids, near.split.text_ids)
    if len(images) < 3:
        return None
    v, t = near.split.image_embeds[images], near.split.text_embeds[texts]
    distance = float(np.linalg.norm(v.mean(axis=0) - t.mean(axis=0)))
    points = 12 + (GAP_SIZE - 24) * _unit_box(pca(np.concatenate([v, t])))
    kept = np.sort(np.random.default_rng(0).permutation(len(v))[:GAP_PAIRS])
    return Gap(_gap_svg(points[kept], points[len(v) + kept]), distance, len(kept))


def _gap_svg(images: np.ndarray, texts: np.ndarray) -> Markup:
    height = max(images[:, 1].max(), texts[:, 1].max()) + 12
    lines = "".join(
        f'<path class="pair" d="M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}"/>'
        for a, b in zip(images, texts, strict=True)
    )
    dots = "".join(f'<circle class="image-dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in images)
    dots += "".join(f'<circle class="text-dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in texts)
    label = f"Joint PCA of {len(images)} images and their captions, each pair joined by a line"
    return Markup(f'<svg viewBox="0 0 {GAP_SIZE} {height:.0f}" role="img" aria-label="{label}">{lines}{dots}</svg>')


def _unit_box(points: np.ndarray) -> np.ndarray:
    """Shift and scale points, float [N, 2], into the unit square; both axes keep the same scale."""
    return (points - points.min(axis=0)) / max(float(np.ptp(points, axis=0).max()), 1e-9)


def _text_points(near: Neighbours, points: np.ndarray) -> np.ndarray:
    """Return float [M, 2]: each text at the weighted mean of the images nearest to it."""
    nearest = near.images_of_texts(CENTROID_IMAGES)
    scores = np.take_along_axis(near.scores.T, nearest, axis=1)
    weights = np.exp(SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights[:, :, None] * points[nearest]).sum(axis=1)


def _integers(values: np.ndarray) -> list:
    return np.round(values).astype(int).tolist()
