"""The map: every image where its embedding puts it, and the two clouds of the modality gap.

Letters: N images, M texts.
"""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from rankclip_jax.evals.embeddings import paired_rows
from rankclip_jax.report.neighbours import Neighbours, top
from rankclip_jax.report.projection import MAX_TSNE, pca, tsne
from rankclip_jax.report.run_folder import Labelling, Shown

GRID = 4000  # coordinates are whole numbers up to this
N_NAMES, N_IMAGES = 5, 8
MAX_COLOURS = 10
PULL = 50.0  # weight of an image exp(PULL * cosine) when a name is placed among its nearest three
GAP_PAIRS = 250
GAP_SIZE = 300


@dataclass(frozen=True)
class Gap:
    """The joint PCA of images and texts, drawn, with the distance of their means."""

    svg: Markup
    distance: float
    n_pairs: int


def map_data(near: Neighbours) -> dict:
    """Return all that the page's script needs to draw the map and to answer a search, as plain lists."""
    shown = near.shown
    method, places = _places(shown.image_embeds)
    low, extent = places.min(axis=0), max(float(np.ptp(places, axis=0).max()), 1e-9)
    places = (places - low) / extent * GRID
    texts = _text_places(near, places)
    kind, labelling = colouring(shown)
    names_of_images = near.texts_of_images(N_NAMES)
    own = np.where(near.match.any(axis=1), near.match.argmax(axis=1), -1)
    return {
        "method": method,
        "grid": GRID,
        "columns": shown.sheet.columns,
        "rows": shown.sheet.rows,
        "cell": list(shown.sheet.cell),
        "kind": kind,
        "groups": list(labelling.names) if labelling else [],
        "images": {
            "x": _whole(places[:, 0]),
            "y": _whole(places[:, 1]),
            "own": own.tolist(),
            "rank": near.image_ranks.tolist(),
            "group": labelling.image_labels.tolist() if labelling else [0] * len(places),
            "names": names_of_images.tolist(),
            "scores": np.round(1000 * np.take_along_axis(near.scores, names_of_images, axis=1)).astype(int).tolist(),
            "floor": _whole(1000 * np.median(near.scores, axis=1)),
            "near": near.images_of_images(N_IMAGES).tolist(),
        },
        "texts": {
            "x": _whole(texts[:, 0]),
            "y": _whole(texts[:, 1]),
            "name": list(shown.texts),
            "rank": near.text_ranks.tolist(),
            "id": shown.text_ids.tolist(),
            "group": labelling.text_labels.tolist() if labelling else [0] * len(texts),
            "images": near.images_of_texts(N_IMAGES).tolist(),
        },
        "ids": shown.image_ids.tolist(),
    }


def colouring(shown: Shown) -> tuple[str, Labelling | None]:
    """Return the labelling with the most classes that still have a colour each, renumbered to those in use."""
    fitting = []
    for name, labelling in shown.labellings.items():
        used = np.unique(np.concatenate([labelling.image_labels, labelling.text_labels]))
        if 1 < len(used) <= MAX_COLOURS:
            fitting.append((len(used), name, used))
    if not fitting:
        return "", None
    _, name, used = max(fitting)
    labelling = shown.labellings[name]
    return name, Labelling(
        names=tuple(labelling.names[i] for i in used),
        image_labels=np.searchsorted(used, labelling.image_labels),
        text_labels=np.searchsorted(used, labelling.text_labels),
    )


def modality_gap(near: Neighbours) -> Gap | None:
    """Draw images and texts in the plane of their joint PCA, pairs joined by a line."""
    images, texts = paired_rows(near.shown.image_ids, near.shown.text_ids)
    if len(images) < 3:
        return None
    v, t = near.shown.image_embeds[images], near.shown.text_embeds[texts]
    distance = float(np.linalg.norm(v.mean(axis=0) - t.mean(axis=0)))
    places = pca(np.concatenate([v, t]))
    places = (places - places.min(axis=0)) / max(float(np.ptp(places, axis=0).max()), 1e-9)
    places = 12 + places * (GAP_SIZE - 24)
    kept = np.sort(np.random.default_rng(0).permutation(len(v))[:GAP_PAIRS])
    return Gap(_gap_svg(places[kept], places[len(v) + kept]), distance, len(kept))


def _gap_svg(images: np.ndarray, texts: np.ndarray) -> Markup:
    height = max(images[:, 1].max(), texts[:, 1].max()) + 12
    lines = "".join(
        f'<path class="pair" d="M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}"/>'
        for a, b in zip(images, texts, strict=True)
    )
    dots = "".join(f'<circle class="image-dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in images)
    dots += "".join(f'<circle class="text-dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in texts)
    label = f"Joint PCA of {len(images)} images and their names, each pair joined by a line"
    return Markup(f'<svg viewBox="0 0 {GAP_SIZE} {height:.0f}" role="img" aria-label="{label}">{lines}{dots}</svg>')


def _places(embeds: np.ndarray) -> tuple[str, np.ndarray]:
    if len(embeds) <= MAX_TSNE:
        return "t-SNE", tsne(embeds).astype(np.float64)
    return "PCA", pca(embeds)


def _text_places(near: Neighbours, places: np.ndarray) -> np.ndarray:
    """Put each text at the weighted mean of the three images nearest it."""
    nearest = top(near.scores.T, 3)
    scores = np.take_along_axis(near.scores.T, nearest, axis=1)
    weights = np.exp(PULL * (scores - scores.max(axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights[:, :, None] * places[nearest]).sum(axis=1)


def _whole(values: np.ndarray) -> list[int]:
    return np.round(values).astype(int).tolist()
