"""Example queries in both directions, drawn with a fixed seed, independently of their ranks."""

from dataclasses import dataclass

import numpy as np

from rankclip_jax.report.neighbours import Neighbours

SEED = 0
N_TEXT_QUERIES, N_RETRIEVED_IMAGES = 8, 8
N_IMAGE_QUERIES, N_RETRIEVED_TEXTS = 9, 5
N_MOSAIC = 66


@dataclass(frozen=True)
class Tile:
    """An image: its index, its CSS position in the sheet, its caption, and whether it is a correct answer."""

    index: int
    position: str
    caption: str
    hit: bool


@dataclass(frozen=True)
class TextQuery:
    """A text, the images nearest to it, its rank, and its own image if that is not among them."""

    text: str
    tiles: tuple[Tile, ...]
    rank: int
    own: Tile | None


@dataclass(frozen=True)
class Candidate:
    """A retrieved text: its cosine, the width of its bar in percent, and whether it is correct."""

    text: str
    score: float
    width: float
    hit: bool


@dataclass(frozen=True)
class ImageQuery:
    """An image, the texts nearest to it, and the rank of its own text."""

    tile: Tile
    candidates: tuple[Candidate, ...]
    rank: int


def text_to_image(near: Neighbours) -> list[TextQuery]:
    """Return `N_TEXT_QUERIES` texts with the images nearest to them."""
    tops = near.images_of_texts(N_RETRIEVED_IMAGES)
    return [_text_query(near, m, tops[m]) for m in _draw(near.text_ranks, N_TEXT_QUERIES)]


def image_to_text(near: Neighbours) -> list[ImageQuery]:
    """Return `N_IMAGE_QUERIES` images with the texts nearest to them."""
    tops = near.texts_of_images(N_RETRIEVED_TEXTS)
    return [_image_query(near, n, tops[n]) for n in _draw(near.image_ranks, N_IMAGE_QUERIES)]


def mosaic(near: Neighbours) -> list[Tile]:
    """Return `N_MOSAIC` images that have a caption; ``hit`` means that the caption ranks first."""
    return [tile(near, n, near.image_ranks[n] == 1) for n in _draw(near.image_ranks, N_MOSAIC)]


def tile(near: Neighbours, n: int, hit: bool = False) -> Tile:
    """Return image ``n`` of the report's split."""
    return Tile(int(n), near.split.sheet.position(int(n)), near.captions[n], bool(hit))


def _text_query(near: Neighbours, m: int, top: np.ndarray) -> TextQuery:
    tiles = tuple(tile(near, n, near.match[n, m]) for n in top)
    own = None
    if not any(found.hit for found in tiles):
        own = tile(near, np.where(near.match[:, m], near.scores[:, m], -np.inf).argmax(), hit=True)
    return TextQuery(near.split.texts[m], tiles, int(near.text_ranks[m]), own)


def _image_query(near: Neighbours, n: int, top: np.ndarray) -> ImageQuery:
    scores = near.scores[n]
    # Bars start at the median text: the cosines of a trained model all lie in a narrow band.
    floor, best = np.median(scores), scores[top[0]]
    candidates = tuple(
        Candidate(
            text=near.split.texts[m],
            score=float(scores[m]),
            width=float(100 * np.clip((scores[m] - floor) / max(best - floor, 1e-9), 0, 1)),
            hit=bool(near.match[n, m]),
        )
        for m in top
    )
    return ImageQuery(tile(near, n), candidates, int(near.image_ranks[n]))


def _draw(ranks: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` random indices of items with a match."""
    order = np.random.default_rng(SEED).permutation(len(ranks))
    return order[ranks[order] > 0][:count]
