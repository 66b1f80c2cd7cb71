"""Two ranked lists of one anchor: its nearest images and its nearest captions. RankCLIP trains their orders to agree.

Letters: P pairs of an image and its first caption.
"""

from dataclasses import dataclass

import numpy as np

from rankclip_jax.evals.embeddings import paired_rows
from rankclip_jax.evals.rank_correlation import kendall_tau
from rankclip_jax.evals.similarity import score_rows
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
    image_scores, text_scores = score_rows(v[drawn], v)(every), score_rows(t[drawn], t)(every)
    others = np.arange(len(images))[None, :] != drawn[:, None]
    shape = (len(drawn), len(images) - 1)
    taus = kendall_tau(image_scores[others].reshape(shape), text_scores[others].reshape(shape))
    order = np.argsort(taus, kind="stable")
    anchors = []
    for percentile, title in EXAMPLES:
        row = order[round((len(order) - 1) * percentile / 100)]
        lists = (_order(image_scores[row], drawn[row]), _order(text_scores[row], drawn[row]))
        pair = images[drawn[row]], texts[drawn[row]]
        entries, links = _entries(near, (images, texts), lists)
        tau = float(taus[row])
        anchors.append(Anchor(title, percentile, tile(near, pair[0]), near.split.texts[pair[1]], tau, *entries, links))
    heights, edges = np.histogram(taus, bins=BINS, range=_range(taus))
    scaled = tuple(100 * heights / heights.max())
    ends = float(edges[0]), float(edges[-1])
    return Agreement(tuple(anchors), float(taus.mean()), len(drawn), shape[1], scaled, *ends)


def _order(scores: np.ndarray, anchor: int) -> np.ndarray:
    """Return the indices of all pairs but the anchor, the nearest first."""
    order = np.argsort(-scores, kind="stable")
    return order[order != anchor]


def _entries(near: Neighbours, pairs: tuple, lists: tuple) -> tuple[tuple, tuple]:
    """Return the first `LENGTH` entries of the image list and of the text list, and the links between them."""
    images, texts = pairs
    ranks = [{int(item): rank for rank, item in enumerate(order, start=1)} for order in lists]

    def entries(order, other_ranks):
        return tuple(
            Entry(tile(near, images[i]), near.split.texts[texts[i]], other_ranks[int(i)]) for i in order[:LENGTH]
        )

    links = [(rank, ranks[1][int(i)]) for rank, i in enumerate(lists[0][:LENGTH], start=1)]
    shared = tuple((left, right) for left, right in links if right <= LENGTH)
    return (entries(lists[0], ranks[1]), entries(lists[1], ranks[0])), shared


def _range(taus: np.ndarray) -> tuple[float, float]:
    """Return rounded ends of an axis that includes every tau and 0."""
    low = np.floor(min(0.0, taus.min()) * 10) / 10
    high = np.ceil(max(0.1, taus.max()) * 10) / 10
    return float(low), float(high)
