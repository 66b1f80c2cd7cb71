"""Examples of retrieval both ways, drawn by a fixed seed: what comes, hit or miss."""

from dataclasses import dataclass

import numpy as np

from rankclip_jax.report.neighbours import Neighbours

SEED = 0
N_QUERIES, N_IMAGES = 8, 8
N_LISTS, N_NAMES = 9, 5
N_MOSAIC = 66


@dataclass(frozen=True)
class Tile:
    """An image: place in the sheet (CSS), name, and whether it is a right answer."""

    index: int
    position: str
    name: str
    hit: bool


@dataclass(frozen=True)
class Query:
    """A text, the images nearest it, its rank, and its own image where that is not among them."""

    text: str
    tiles: tuple[Tile, ...]
    rank: int
    own: Tile | None


@dataclass(frozen=True)
class Name:
    """A candidate text: cosine, width of its bar in percent, and whether it is right."""

    text: str
    score: float
    width: float
    hit: bool


@dataclass(frozen=True)
class ImageList:
    """An image, the texts nearest it, and the rank of its own."""

    tile: Tile
    names: tuple[Name, ...]
    rank: int


def text_to_image(near: Neighbours) -> list[Query]:
    """Return `N_QUERIES` texts with their top images."""
    tops = near.images_of_texts(N_IMAGES)
    return [_query(near, m, tops[m]) for m in _draw(near.text_ranks, N_QUERIES)]


def image_to_text(near: Neighbours) -> list[ImageList]:
    """Return `N_LISTS` images with their top names."""
    tops = near.texts_of_images(N_NAMES)
    return [_image_list(near, n, tops[n]) for n in _draw(near.image_ranks, N_LISTS)]


def mosaic(near: Neighbours) -> list[Tile]:
    """Return images drawn from all that have a name; ``hit`` says that it was found first."""
    return [tile(near, n, near.image_ranks[n] == 1) for n in _draw(near.image_ranks, N_MOSAIC)]


def tile(near: Neighbours, n: int, hit: bool = False) -> Tile:
    """Return image ``n`` of the shown split."""
    return Tile(int(n), near.shown.sheet.position(int(n)), near.names[n], bool(hit))


def _query(near: Neighbours, m: int, top: np.ndarray) -> Query:
    tiles = tuple(tile(near, n, near.match[n, m]) for n in top)
    own = None
    if not any(found.hit for found in tiles):
        own = tile(near, np.where(near.match[:, m], near.scores[:, m], -np.inf).argmax(), hit=True)
    return Query(near.shown.texts[m], tiles, int(near.text_ranks[m]), own)


def _image_list(near: Neighbours, n: int, top: np.ndarray) -> ImageList:
    scores = near.scores[n]
    # Bars start at the median candidate: cosines of a trained model all lie in a narrow band.
    floor, best = np.median(scores), scores[top[0]]
    names = tuple(
        Name(
            text=near.shown.texts[m],
            score=float(scores[m]),
            width=float(100 * np.clip((scores[m] - floor) / max(best - floor, 1e-9), 0, 1)),
            hit=bool(near.match[n, m]),
        )
        for m in top
    )
    return ImageList(tile(near, n), names, int(near.image_ranks[n]))


def _draw(ranks: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` places with an answer, by the seed alone: the draw does not look at the ranks."""
    order = np.random.default_rng(SEED).permutation(len(ranks))
    return order[ranks[order] > 0][:count]
