"""Image-text pairs as they are stored: what the reader of a file format gives, before images are decoded."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from rankclip_jax.data.progress import progress

LAST_READ = 16  # records that a reader keeps, because a thread asks for the captions and then the image of a record


@dataclass(frozen=True)
class PairOptions:
    """Options of readers: the keys of `config.data` with the same names, and `split`.

    Attributes:
      image_key: column, field or file extension of the image; "" for the first usual name found.
      caption_key: the same for the caption or captions.
      second_caption_key: the same for second captions; "" for none.
      image_root: folder that image paths in a table are relative to; "" for the folder of the table.
      templates: prompts with one ``{}`` each, filled with a class name to make a caption.
      index_dir: folder for indexes of tars; "" for beside the tars.
      root: folder that relative locations start from; TFDS: folder of prepared data sets.
      split: the part of a location after the last "#", for formats that hold several splits; "" for none.
    """

    image_key: str = ""
    caption_key: str = ""
    second_caption_key: str = ""
    image_root: str = ""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    index_dir: str = ""
    root: str = ""
    split: str = ""


class PairSource:
    """Base class: random access to the pairs of some files. Methods may be called from several threads at once.

    Opening a source reads no images. An error of the files as a whole is a `UserError` at opening; an error of one
    pair is any exception raised by the method called for that pair.

    A format implements `__len__`, `key`, `captions`, `image_bytes` and `digest`. The rest is optional.

    Attributes:
      has_second_captions: whether every pair has second captions.
      class_names: names of the classes, if every pair has a label; () otherwise.
    """

    has_second_captions: bool = False
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def key(self, index: int) -> str:
        """Name of the pair, unique in the source: a path, or a shard and a member, by which a user finds it."""
        raise NotImplementedError

    def captions(self, index: int) -> tuple[str, ...]:
        """At least one caption."""
        raise NotImplementedError

    def image_bytes(self, index: int) -> bytes:
        """The encoded image, such as the content of a JPEG file."""
        raise NotImplementedError

    def digest(self) -> str:
        """Text that differs between different pairs, made without reading images. Formats say what it covers."""
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
