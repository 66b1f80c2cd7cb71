"""The interface of readers of file formats: image-text pairs with encoded images."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from rankclip_jax.data.progress import progress

LAST_READ = 16  # records that a reader caches: a thread reads the captions of a record, and then its image


@dataclass(frozen=True)
class PairOptions:
    """Options of readers: the keys of `config.data` with the same names, and `split`.

    Attributes:
      image_key: column, field or file extension of the image; "" for the first usual name found.
      caption_key: the same for the caption or captions.
      second_caption_key: the same for second captions; "" for none.
      caption_split: "lines" or "list" if a text holds several captions: `sources.caption_split`; "" if it is one.
      image_root: folder that image paths in a table are relative to; "" for the folder of the table.
      templates: prompt templates, which make captions of class names.
      index_dir: folder for the indexes of tars; "" for a folder beside the tars.
      root: folder that relative locations start from; TFDS: folder of prepared data sets.
      split: the part of a location after the last "#", for formats with several splits; "" for none.
    """

    image_key: str = ""
    caption_key: str = ""
    second_caption_key: str = ""
    caption_split: str = ""
    image_root: str = ""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    index_dir: str = ""
    root: str = ""
    split: str = ""


class PairSource:
    """Base class: random access to the pairs of some files, from several threads at once.

    Opening a source reads no images; it raises `UserError` if the files as a whole are invalid. For an invalid pair a
    method may raise any exception.

    A format implements `__len__`, `key`, `captions`, `image_bytes` and `digest`; the other members are optional.

    Attributes:
      has_second_captions: whether every pair has second captions.
      class_names: names of the classes, if every pair has a label; () otherwise.
    """

    has_second_captions: bool = False
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def key(self, index: int) -> str:
        """Name of the pair, unique in the source, such as a path: it tells a user where the pair is."""
        raise NotImplementedError

    def captions(self, index: int) -> tuple[str, ...]:
        """At least one caption."""
        raise NotImplementedError

    def image_bytes(self, index: int) -> bytes:
        """The encoded image, such as the content of a JPEG file."""
        raise NotImplementedError

    def digest(self) -> str:
        """A text that changes with the pairs, made without reading images. Each format says what it covers."""
        raise NotImplementedError

    def second_captions(self, index: int) -> tuple[str, ...]:
        """Captions of another origin, such as a captioning model; () if the source has none."""
        return ()

    def label(self, index: int) -> int | None:
        """Class of the pair, an index into `class_names`; None if the source has no classes."""
        return None

    def find(self, keys: Collection[str]) -> np.ndarray:
        """int [n], ascending: indices of the pairs with one of these keys. Keys that match no pair are ignored."""
        indices = progress(range(len(self)), "looking up keys")
        return np.array([index for index in indices if self.key(index) in keys], np.int64)
