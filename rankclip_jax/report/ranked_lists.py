"""Two ranked lists of one anchor: its nearest images and its nearest captions. RankCLIP trains their orders to agree.

An anchor is a pair of an image and its first caption.
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
EXAMPLES = ((90, "high agreement"), (50, "typical"), (10, "low agreement"))
BINS = 24


@dataclass(frozen=True)
class Entry:
    """An item of one list, and its rank in the other list (from 1)."""

    tile: Tile
    text: str
    other_rank: int


@dataclass(frozen=True)
class Anchor:
    """An anchor and the first items of both lists; ``links`` are (rank left, rank right) of shared items."""

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
    """Kendall's tau over anchors, as a histogram (heights in percent of the highest bar), and three examples."""

    anchors: tuple[Anchor, ...]
    mean: float
    n_anchors: int
    n_items: int
    heights: tuple[float, ...]
    low: float
    high: float

    def position(self, tau: float) -> float:
        """Return the position of ``tau`` on the histogram's axis, in percent."""
        return 100 * (tau - self.low) / (self.high - self.low)


def agreement(near: Neighbours) -> Agreement | None:
    """Compare the full lists of at most `MAX_ANCHORS` anchors; None with fewer than 4 pairs."""
    images, texts = paired_rows(near.split.image_ids, near.split.text_ids)
    if len(images) < 4:
        return None
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(images))[:MAX_ANCHORS])
    v, t = near.split.image_embeds[images], near.split.text_embeds[texts]
    every = slice(0, len(drawn))
    image_scores, text_scores = Scores(v[drawn], v).tile(every), Scores(t[drawn], t).tile(every)
    others = np.arange(len(images))[None, :] != drawn[:, None]
    shape = (len(drawn), len(images) - 1)
    taus = kendall_tau(image_scores[others].reshape(shape), text_scores[others].reshape(shape))
    order = np.argsort(taus, kind="stable")
    anchors = []
    for percentile, title in EXAMPLES:
        row = order[round((len(order) - 1) * percentile / 100)]
        lists = (_order(image_scores[row], drawn[row]), _order(text_scores[row], drawn[row]))
        own, entries, links = _entries(near, (images, texts), drawn[row], lists)
        anchors.append(Anchor(title, percentile, own.tile, own.text, float(taus[row]), *entries, links))
    ends = _range(taus)
    counts, _ = np.histogram(taus, bins=BINS, range=ends)
    heights = tuple(100 * counts / counts.max())
    return Agreement(tuple(anchors), float(taus.mean()), len(drawn), shape[1], heights, *ends)


def _order(scores: np.ndarray, anchor: int) -> np.ndarray:
    """Return the indices of all pairs but the anchor, the nearest first."""
    order = np.argsort(-scores, kind="stable")
    return order[order != anchor]


def _entries(near: Neighbours, pairs: tuple, anchor: int, lists: tuple) -> tuple[Entry, tuple, tuple]:
    """Return the anchor's own entry, the first `LENGTH` entries of both lists, and the links between them."""
    images, texts = pairs
    in_images, in_texts = ({int(item): rank for rank, item in enumerate(order, start=1)} for order in lists)

    def entry(i: int, other_rank: int) -> Entry:
        return Entry(tile(near, images[i]), near.split.texts[texts[i]], other_rank)

    by_image = tuple(entry(i, in_texts[int(i)]) for i in lists[0][:LENGTH])
    by_text = tuple(entry(i, in_images[int(i)]) for i in lists[1][:LENGTH])
    links = tuple((rank, e.other_rank) for rank, e in enumerate(by_image, start=1) if e.other_rank <= LENGTH)
    return entry(anchor, 0), (by_image, by_text), links


def _range(taus: np.ndarray) -> tuple[float, float]:
    """Return rounded ends of an axis that includes every tau and 0."""
    low = np.floor(min(0.0, taus.min()) * 10) / 10
    high = np.ceil(max(0.1, taus.max()) * 10) / 10
    return float(low), float(high)
