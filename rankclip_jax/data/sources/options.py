"""The keys of `config.data` that sources read, as checked values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.errors import UserError

Options = TypeVar("Options")


@dataclass(frozen=True)
class FileOptions(PairOptions):
    """Options of all file formats. A default means "not set".

    Attributes:
      name: the default format of locations.
      train, val, test: locations to train on, to evaluate during training, and to evaluate at the end.
      val_pairs: number of training pairs to hold out for `val`.
      train_limit: number of pairs to train on; 0 for all.
      second_captions: file of second captions.
      quarantine: file of the keys to leave out.
    """

    name: str = ""
    train: str = ""
    val: str = ""
    test: str = ""
    val_pairs: int = 0
    train_limit: int = 0
    second_captions: str = ""
    quarantine: str = ""

    def __post_init__(self):
        """Check the options: `UserError` if they are negative or contradict each other."""
        for key in ("val_pairs", "train_limit"):
            if getattr(self, key) < 0:
                raise UserError(f"config.data.{key} is {getattr(self, key)}; use 0 for none, or a positive number.")
        if self.val.strip() and self.val_pairs:
            raise UserError("config.data.val and config.data.val_pairs both define the split `val`: set one of them.")
        if self.second_captions and self.second_caption_key:
            raise UserError("config.data.second_captions and second_caption_key both give second captions: set one.")


@dataclass(frozen=True)
class EmojiOptions:
    """Options of the embedded emoji.

    Attributes:
      name: name of the data set.
      root: folder with the sheets and ``concepts.tsv``; "" for the embedded data set.
      styles: comma-separated drawing styles to use; "" for all five.
      train_limit: number of drawings to train on, chosen by hash; 0 for all.
    """

    name: str = "emoji"
    root: str = ""
    styles: str = ""
    train_limit: int = 0


ADVICE = {
    FileOptions: "leave it out",
    EmojiOptions: "name the format of your files there, such as csv or webdataset",
}


def parse(kind: type[Options], data: Any) -> Options:
    """Read the options of one kind of source (a key of `ADVICE`) from `config.data`.

    Raises:
      UserError: a key is set that only another kind of source reads.
    """
    own = _defaults(kind)
    for other in ADVICE:
        for key, unset in _defaults(other).items():
            value = _plain(getattr(data, key))
            if key not in own and value != unset:
                raise UserError(
                    f"config.data.{key} is {value!r}, which config.data.name={data.name!r} does not read: "
                    f"{ADVICE[kind]}."
                )
    return kind(**{key: _plain(getattr(data, key)) for key in own})


def _defaults(kind: type) -> Mapping[str, Any]:
    """The config keys of a kind of source, with the values that mean "not set"."""
    # `split` is part of a location, and no config key.
    return {field.name: field.default for field in fields(kind) if field.name != "split"}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # a run's config.json stores tuples as lists
