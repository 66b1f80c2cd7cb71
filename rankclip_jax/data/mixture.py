"""Subsets of a source, and mixtures of several sources.

Letters: n pairs of a source, c positions of the source in an epoch.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from rankclip_jax.data.indices import Indices
from rankclip_jax.data.pairs import PairSource


class RedirectedPairs(PairSource):
    """Base class: pairs of other sources. `_locate` returns a source and the index of the pair in it."""

    def _locate(self, index: int) -> tuple[PairSource, int]:
        raise NotImplementedError

    def key(self, index: int) -> str:
        source, own = self._locate(index)
        return source.key(own)

    def captions(self, index: int) -> tuple[str, ...]:
        source, own = self._locate(index)
        return source.captions(own)

    def image_bytes(self, index: int) -> bytes:
        source, own = self._locate(index)
        return source.image_bytes(own)

    def second_captions(self, index: int) -> tuple[str, ...]:
        source, own = self._locate(index)
        return source.second_captions(own)

    def label(self, index: int) -> int | None:
        source, own = self._locate(index)
        return source.label(own)


class Subset(RedirectedPairs):
    """The pairs of a source at `indices`, in this order."""

    def __init__(self, pairs: PairSource, indices: Indices):
        self._pairs, self._indices = pairs, indices
        self.has_second_captions, self.class_names = pairs.has_second_captions, pairs.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def digest(self) -> str:
        """Covers the whole source; `sources.assemble` adds the options that choose the subset."""
        return self._pairs.digest()

    def _locate(self, index: int) -> tuple[PairSource, int]:
        return self._pairs, int(self._indices[index])


class Located(RedirectedPairs):
    """The pairs of a source with a prefix before each key, which makes keys unique among several sources."""

    def __init__(self, pairs: PairSource, prefix: str):
        self._pairs, self._prefix = pairs, prefix
        self.has_second_captions, self.class_names = pairs.has_second_captions, pairs.class_names

    def __len__(self) -> int:
        return len(self._pairs)

    def key(self, index: int) -> str:
        return self._prefix + self._pairs.key(index)

    def find(self, keys: Collection[str]) -> np.ndarray:
        return self._pairs.find({key.removeprefix(self._prefix) for key in keys if key.startswith(self._prefix)})

    def digest(self) -> str:
        """Covers the pairs; the prefix changes when data are moved."""
        return self._pairs.digest()

    def _locate(self, index: int) -> tuple[PairSource, int]:
        return self._pairs, index


class Mixture(RedirectedPairs):
    """Several sources, one after the other; the loader shuffles them together.

    Without weights every pair occurs once. With weights w (normalised to sum 1) an epoch is the shortest one that has
    every pair: max(n / w) positions. A source gets c = w * max(n / w) positions. Each of its pairs occurs floor(c / n)
    or ceil(c / n) times; the pairs that occur more often are spread evenly over the source.

    The mixture has second captions, or labels, if all sources have them. It has the class names of all sources. If a
    name occurs k times in a source (ImageNet has two "crane"), these are k classes; the i-th of them is the same
    class as the i-th with this name in another source.

    Args:
      parts: sources with at least one pair each.
      weights: a positive number for each source, or ().
    """

    def __init__(self, parts: Sequence[PairSource], weights: Sequence[float] = ()):
        self._parts = tuple(parts)
        self._sizes = np.array([len(part) for part in parts], np.int64)
        self._counts = self._sizes
        if weights:
            shares = np.array(weights, float) / sum(weights)
            length = (self._sizes / shares).max()
            self._counts = np.maximum(self._sizes, np.round(shares * length).astype(np.int64))
        self._starts = np.cumsum([0, *self._counts])
        self.has_second_captions = bool(parts) and all(part.has_second_captions for part in parts)
        self.class_names, self._labels = _joined_classes([part.class_names for part in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def label(self, index: int) -> int | None:
        if not self.class_names:
            return None
        return self._labels[self._part(index)][super().label(index)]

    def digest(self) -> str:
        """Covers all sources and the number of positions of each."""
        return repr([(int(count), part.digest()) for count, part in zip(self._counts, self._parts, strict=True)])

    def _part(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, "right")) - 1

    def _locate(self, index: int) -> tuple[PairSource, int]:
        part = self._part(index)
        position = int(index - self._starts[part])
        # Python's integers, because the product of two numbers of pairs may exceed 64 bits.
        return self._parts[part], position * int(self._sizes[part]) // int(self._counts[part])


def _joined_classes(of_parts: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """The class names of all parts, and for each part the indices of its own classes among them."""
    if not all(of_parts):
        return (), []
    numbered = [_numbered(names) for names in of_parts]
    joined = {key: label for label, key in enumerate(dict.fromkeys(key for keys in numbered for key in keys))}
    return tuple(name for name, _ in joined), [[joined[key] for key in keys] for keys in numbered]


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with the number of equal names before it."""
    numbers = defaultdict(itertools.count)
    return [(name, next(numbers[name])) for name in names]
