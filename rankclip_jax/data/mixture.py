"""Parts of sources, and several sources as one.

Letters: n records of a source, c positions it has in an epoch.
"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.data.pairs import PairSource


class Subset:
    """Some of the pairs of a source; see `PairSource`. It has the optional methods that the source has.

    Args:
      pairs: the source.
      indices: int, its pairs that are kept, in this order.
    """

    def __init__(self, pairs: PairSource, indices: np.ndarray):
        self._pairs, self._indices = pairs, indices
        if hasattr(pairs, "second_captions"):
            self.second_captions = lambda index: pairs.second_captions(self._own(index))
        if hasattr(pairs, "class_names"):
            self.class_names = pairs.class_names
            self.label = lambda index: pairs.label(self._own(index))

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        return self._pairs.key(self._own(index))

    def captions(self, index: int) -> tuple[str, ...]:
        return self._pairs.captions(self._own(index))

    def image_bytes(self, index: int) -> bytes:
        return self._pairs.image_bytes(self._own(index))

    def digest(self) -> str:
        """Of the whole source: which part it is, its user knows."""
        return self._pairs.digest()

    def _own(self, index: int) -> int:
        return int(self._indices[index])


class Mixture:
    """Several sources, one after the other; the loader's shuffle mixes them. See `PairSource`.

    Without weights every pair is there once. With weights w (of sum 1) an epoch is as long as it takes for every
    pair to be in it: max(n / w) positions. A source has c = w x length of them, in which each of its pairs is
    floor(c / n) or ceil(c / n) times, the more frequent ones spread evenly over it.

    Args:
      parts: the sources, none of them empty.
      weights: positive, one for each, or none at all.
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
        if all(hasattr(part, "second_captions") for part in parts):
            self.second_captions = self._second_captions

    def __len__(self) -> int:
        return int(self._starts[-1])

    def key(self, index: int) -> str:
        part, own = self._own(index)
        return part.key(own)

    def captions(self, index: int) -> tuple[str, ...]:
        part, own = self._own(index)
        return part.captions(own)

    def _second_captions(self, index: int) -> tuple[str, ...]:
        part, own = self._own(index)
        return part.second_captions(own)

    def image_bytes(self, index: int) -> bytes:
        part, own = self._own(index)
        return part.image_bytes(own)

    def digest(self) -> str:
        """Of all parts and how often each is there."""
        return repr([(int(count), part.digest()) for count, part in zip(self._counts, self._parts, strict=True)])

    def _own(self, index: int) -> tuple[PairSource, int]:
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        position = int(index - self._starts[part])
        return self._parts[part], int(position * self._sizes[part] // self._counts[part])
