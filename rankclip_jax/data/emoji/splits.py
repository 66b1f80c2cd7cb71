"""Assigns each drawing to a split, by rules that depend on names only. The first rule that applies decides:

1. ``test_subgroup``: all drawings of 10 subgroups. Similar concepts such as "man farmer" and "woman farmer" share a
   subgroup, so no training concept is similar to these.
2. ``test_concept``: one concept in ten, in all styles.
3. ``test_style``: all drawings in one style.
4. ``val``: one drawing in twenty, to choose hyperparameters.
5. ``train``: all others.

The CRC-32 of the UTF-8 name chooses one in ten or twenty. Unlike Python's `hash`, it is the same on every machine. The
choice depends neither on the order of the table nor on other concepts.
"""

from collections.abc import Iterable
from zlib import crc32

from rankclip_jax.data.emoji import HELD_OUT_STYLE
from rankclip_jax.data.emoji.catalogue import Concept

SPLITS = ("train", "val", "test_style", "test_concept", "test_subgroup")
NUM_HELD_OUT_SUBGROUPS = 10


def stable_hash(text: str) -> int:
    """CRC-32 of the UTF-8 bytes, in [0, 2**32)."""
    return crc32(text.encode("utf-8"))


def held_out_subgroups(subgroups: Iterable[str]) -> frozenset[str]:
    """The `NUM_HELD_OUT_SUBGROUPS` names with the smallest hashes."""
    ordered = sorted(set(subgroups), key=lambda name: (stable_hash(name), name))
    return frozenset(ordered[:NUM_HELD_OUT_SUBGROUPS])


def split_of(concept: Concept, style: str, held_out: frozenset[str]) -> str:
    """The split of one drawing; `held_out` is the result of `held_out_subgroups`."""
    if concept.subgroup in held_out:
        return "test_subgroup"
    if stable_hash(concept.hexcode) % 10 == 0:
        return "test_concept"
    if style == HELD_OUT_STYLE:
        return "test_style"
    if stable_hash(f"{concept.hexcode}/{style}") % 20 == 0:
        return "val"
    return "train"
