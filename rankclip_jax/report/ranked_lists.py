"""One anchor, two lists: its nearest images beside its nearest names, which RankCLIP asks to agree.

Letters: P concepts with an image and a text (the first of each).
"""

from dataclasses import dataclass

import numpy as np

from rankclip_jax.evals.embeddings import paired_rows
from rankclip_jax.evals.rank_correlation import kendall_tau
from rankclip_jax.evals.similarity import Scores
from rankclip_jax.report.galleries import Tile, tile
from rankclip_jax.report.neighbours import Neighbours

SEED = 0
MAX_ANCHORS = 256
LENGTH = 10
SHOWN = ((90, "high agreement"), (50, "typical"), (10, "low agreement"))
BINS = 24


@dataclass(frozen=True)
class Entry:
    """An item of one list, and its place in the other (from 1)."""

    tile: Tile
    text: str
    elsewhere: int


@dataclass(frozen=True)
class Anchor:
    """An anchor with the heads of both lists; ``links`` are (place left, place right) of shared items."""

    title: str
    percentile: int
    tile: Tile
    text: str
    tau: float
    images: tuple[Entry, ...]
    texts: tuple[Entry, ...]
    links: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of many anchors (histogram heights in percent of the tallest bar) and three to look at."""

    anchors: tuple[Anchor, ...]
    mean: float
    n_anchors: int
    n_items: int
    heights: tuple[float, ...]
    low: float
    high: float

    def place(self, tau: float) -> float:
        """Return where ``tau`` falls on the histogram's axis, in percent."""
        return 100 * (tau - self.low) / (self.high - self.low)


def agreement(near: Neighbours) -> Agreement | None:
    """Compare both lists of up to `MAX_ANCHORS` anchors, whole lists; None with fewer than 4 concepts."""
    images, texts = paired_rows(near.shown.image_ids, near.shown.text_ids)
    if len(images) < 4:
        return None
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(images))[:MAX_ANCHORS])
    image_lists, text_lists = _lists(near, images, texts, drawn)
    others = np.arange(len(images))[None, :] != drawn[:, None]
    shape = (len(drawn), len(images) - 1)
    taus = kendall_tau(image_lists[others].reshape(shape), text_lists[others].reshape(shape))
    order = np.argsort(taus, kind="stable")
    anchors = []
    for percentile, title in SHOWN:
        row = order[round((len(order) - 1) * percentile / 100)]
        lists = (_order(image_lists[row], drawn[row]), _order(text_lists[row], drawn[row]))
        anchors.append(_anchor(near, (images, texts), drawn[row], lists, float(taus[row]), (percentile, title)))
    heights, edges = np.histogram(taus, bins=BINS, range=_range(taus))
    scaled = tuple(100 * heights / heights.max())
    ends = float(edges[0]), float(edges[-1])
    return Agreement(tuple(anchors), float(taus.mean()), len(drawn), shape[1], scaled, *ends)


def _lists(near: Neighbours, images, texts, drawn) -> tuple[np.ndarray, np.ndarray]:
    """Return the drawn anchors' similarities to all P images and to all P texts."""
    v, t = near.shown.image_embeds[images], near.shown.text_embeds[texts]
    every = slice(0, len(drawn))
    return Scores(v[drawn], v).rows(every), Scores(t[drawn], t).rows(every)


def _order(scores: np.ndarray, anchor: int) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    return order[order != anchor]


def _anchor(near, pairs, anchor, lists, tau, which) -> Anchor:
    images, texts = pairs
    by_image, by_text = lists
    in_text = {int(item): place for place, item in enumerate(by_text, start=1)}
    in_image = {int(item): place for place, item in enumerate(by_image, start=1)}
    links = [(in_image[int(i)], in_text[int(i)]) for i in by_image[:LENGTH] if in_text[int(i)] <= LENGTH]

    def entries(items, elsewhere):
        return tuple(
            Entry(tile(near, images[i]), near.shown.texts[texts[i]], elsewhere[int(i)]) for i in items[:LENGTH]
        )

    return Anchor(
        title=which[1],
        percentile=which[0],
        tile=tile(near, images[anchor]),
        text=near.shown.texts[texts[anchor]],
        tau=tau,
        images=entries(by_image, in_text),
        texts=entries(by_text, in_image),
        links=tuple(links),
    )


def _range(taus: np.ndarray) -> tuple[float, float]:
    """Return round ends for the axis that hold every tau and 0."""
    low = np.floor(min(0.0, taus.min()) * 10) / 10
    high = np.ceil(max(0.1, taus.max()) * 10) / 10
    return float(low), float(high)
