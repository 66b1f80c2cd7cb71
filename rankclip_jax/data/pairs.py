"""Image-text pairs as they lie on disk: what a reader of one file format gives, before anything is decoded."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class PairOptions:
    """What a reader may need beside the location of its files; the keys of `config.data` of the same names.

    Attributes:
      image_key: column, field or file extension of the image; "" for the first known name that is there.
      caption_key: the same for the caption, or captions.
      second_caption_key: the same for captions of another origin; "" for none.
      image_root: folder that image paths in a table are relative to; "" for the table's own.
      templates: prompts with one ``{}`` each that make captions of class names.
      index_dir: folder for indexes that are built once; "" for beside the data.
      split: what follows the last "#" of a location, for formats whose files hold several splits; "" for none.
      root: folder that names of data sets, which are no paths, are looked up in; "" for the format's own.
    """

    image_key: str = ""
    caption_key: str = ""
    second_caption_key: str = ""
    image_root: str = ""
    templates: tuple[str, ...] = ()
    index_dir: str = ""
    split: str = ""
    root: str = ""


class PairSource(Protocol):
    """Random access to the pairs of some files, from several threads at once.

    Opening one is cheap whatever its size, and reads no image; what is wrong with the files as a whole is a
    `UserError` then. A method raises any other exception for a single pair that cannot be read.

    A source that knows its keys without asking for one after the other may have `find(keys)`, int [n]: the numbers
    of those pairs, in any order, that have one of these keys.

    A source all of whose pairs have captions of another origin also has a method `second_captions`, like
    `captions`. One whose pairs are of named classes has `class_names`, tuple of str, and `label(index)`, an
    index into them.
    """

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name of the pair, unique in the source, that leads a user to it: a path, or shard and member."""
        ...

    def captions(self, index: int) -> tuple[str, ...]:
        """At least one caption."""
        ...

    def image_bytes(self, index: int) -> bytes:
        """The encoded image, such as the content of a JPEG file."""
        ...

    def digest(self) -> str:
        """sha256 hex of what the pairs are (keys, captions or the files' sizes), without reading images."""
        ...
