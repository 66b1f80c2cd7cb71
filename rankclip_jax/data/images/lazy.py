"""Images of an evaluation split, decoded on access."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rankclip_jax.data.images.decode import decode
from rankclip_jax.data.pairs import PairSource

LOG = logging.getLogger(__name__)
WHITE = Image.new("RGB", (8, 8), (255, 255, 255))


class LazyImages(Sequence[Image.Image]):
    """N images of any size. An index returns a PIL image; a slice or an array of indices returns `LazyImages`.

    An image that cannot be decoded is replaced by a white image, because a split without it would be easier. It is
    logged once.

    Args:
      pairs: the source.
      rows: int [N], indices of the pairs; None for all pairs.
      unreadable: set that receives the indices of pairs whose images cannot be decoded; slices share it.
    """

    def __init__(self, pairs: PairSource, rows: np.ndarray | None = None, unreadable: set[int] | None = None):
        self._pairs = pairs
        self._rows = np.arange(len(pairs)) if rows is None else rows
        self.unreadable: set[int] = set() if unreadable is None else unreadable

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice | np.ndarray | list):
            return LazyImages(self._pairs, self._rows[index], self.unreadable)
        row = int(self._rows[index])
        try:
            return decode(self._pairs.image_bytes(row))
        except Exception as error:  # readers and decoders may raise any exception
            if row not in self.unreadable:
                self.unreadable.add(row)
                LOG.warning("image %s is evaluated as white: %s: %s", self._pairs.key(row), type(error).__name__, error)
            return WHITE
