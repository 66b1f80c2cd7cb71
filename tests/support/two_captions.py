"""Record sources with and without second captions, and augmentations for them."""

import numpy as np

from rankclip_jax.data.records import Record, RecordSource

AUGMENT = "shift|color_jitter"
TEXT = "eda(synonyms=0)"
PLAIN = ("images", "tokens")


class Source(RecordSource):
    """100 records with second captions, except the records in `without`."""

    has_second_captions = True

    def __init__(self, without=()):
        self.without = frozenset(without)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (12, 12, 3), np.uint8)
        second = () if index in self.without else self.second_captions(index)
        return Record(self.key(index), image, self.captions(index), second)

    def key(self, index):
        return f"r{index}"

    def captions(self, index):
        return (f"number {index}", f"the image {index}")

    def second_captions(self, index):
        return (f"a drawing of {index}", f"a sketch of {index}", f"{index} drawn")


class OneKind(RecordSource):
    """A source without second captions."""

    captions = Source.captions
