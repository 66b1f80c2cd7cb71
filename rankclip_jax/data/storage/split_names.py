"""Names of splits, as files and folders have them."""

import re
from collections.abc import Collection

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_OF_WORD = {word: split for split, words in SPLITS.items() for word in words}
_DOMAIN = re.compile(r"(?<=[a-z])[A-C]$")  # of "trainA" and "trainB": sets of unpaired images
_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(_OF_WORD, key=len, reverse=True))})(?![a-z])")


def known_split(name: str) -> str | None:
    """The key of `SPLITS` whose word the name has last: "train" for ``cc3m-train-0001.tar`` and ``train2017``."""
    found = _WORD.findall(name.lower())
    return _OF_WORD[found[-1]] if found else None


def are_splits(names: Collection[str]) -> bool:
    """Whether names beside each other are splits: words of `SPLITS`, or equal but for such a word and a last letter.

    ``train`` and ``val2017``, ``training_set`` and ``test_set``, ``trainA`` and ``testB`` are; ``bullet train`` and
    ``test tube`` are not.
    """
    found: dict[str, set[str | None]] = {}
    for name in names:
        base = _DOMAIN.sub("", name)
        if split := known_split(base):
            rest = "" if is_split(base) else _WORD.sub("", base.lower(), count=1)
            found.setdefault(rest, set()).add(split)
    return any(len(splits) > 1 for splits in found.values())


def is_split(name: str) -> bool:
    """Whether the name is a word of `SPLITS`, with or without a number."""
    return _WORD.sub("", name.lower()).strip("-_.0123456789") == "" and known_split(name) is not None
