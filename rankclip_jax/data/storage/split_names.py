"""Names of splits, as files and folders have them."""

import re

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_OF_WORD = {word: split for split, words in SPLITS.items() for word in words}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(_OF_WORD, key=len, reverse=True))})(?![a-z])")


def known_split(name: str) -> str | None:
    """The key of `SPLITS` whose word the name has last: "train" for ``cc3m-train-0001.tar`` and ``train2017``."""
    found = _WORD.findall(name.lower())
    return _OF_WORD[found[-1]] if found else None


def is_split(name: str) -> bool:
    """Whether the name is a word of `SPLITS`, with or without a number."""
    return _WORD.sub("", name.lower()).strip("-_.0123456789") == "" and known_split(name) is not None
