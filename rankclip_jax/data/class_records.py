"""Training records with labels, for linear probes."""

from functools import lru_cache

import numpy as np

from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.progress import progress

LABELLING = "class"  # name of the labelling, in training data and in evaluation splits


class ClassRecords(DecodedRecords):
    """Records of pairs that have class names."""

    def __init__(self, pairs: PairSource):
        super().__init__(pairs)
        self.classes = {LABELLING: pairs.class_names}
        self._labels = lru_cache(1)(self._read_labels)

    def labels(self, labelling: str) -> np.ndarray:
        if labelling != LABELLING:
            raise KeyError(labelling)
        return self._labels()

    def _read_labels(self) -> np.ndarray:
        return np.array([self._label(index) for index in progress(range(len(self)), "labels")], np.int64)

    def _label(self, index: int) -> int:
        try:
            return self.pairs.label(index)
        except Exception:  # readers may raise any exception; training counts the record as bad
            return -1


def records_of(pairs: PairSource) -> DecodedRecords:
    """Records of pairs, with labels if the pairs have them."""
    return ClassRecords(pairs) if pairs.class_names else DecodedRecords(pairs)
