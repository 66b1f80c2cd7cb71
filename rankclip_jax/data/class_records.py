"""Records whose pairs are of named classes: what a linear probe is trained on."""

from functools import lru_cache

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.parallel import processes

LABELLING = "class"  # as the evaluation splits of such pairs name it


class ClassRecords(DecodedRecords):
    """The records of pairs with `class_names`, with `classes` and `labels`; see `RecordSource`."""

    def __init__(self, pairs: PairSource):
        super().__init__(pairs)
        self.classes = {LABELLING: pairs.class_names}
        self._labels = lru_cache(1)(self._read_labels)

    def labels(self, labelling: str) -> np.ndarray:
        """int [N], the class of each record, -1 where it cannot be read."""
        if labelling != LABELLING:
            raise KeyError(labelling)
        return self._labels()

    def _read_labels(self) -> np.ndarray:
        hidden = None if processes.is_main() else True
        bar = tqdm(range(len(self)), desc="labels", unit="pair", delay=2, leave=False, disable=hidden)
        return np.array([self._label(index) for index in bar], np.int64)

    def _label(self, index: int) -> int:
        try:
            return self.pairs.label(index)
        except Exception:  # whatever a reader raises; training counts it
            return -1


def records_of(pairs: PairSource) -> DecodedRecords:
    """Records of any pairs, labelled ones if the pairs are."""
    return ClassRecords(pairs) if hasattr(pairs, "class_names") else DecodedRecords(pairs)
