"""Which split each drawing belongs to, by rules that depend on names alone.

In this order, so that no rule can undo an earlier one:

1. ``test_subgroup``: every drawing of 10 of the subgroups. Siblings such as "man farmer" and
   "woman farmer" share a subgroup, so no sibling of these concepts is ever trained on.
2. ``test_concept``: one concept in ten of the rest, in every style.
3. ``test_style``: one style of the concepts that are left.
4. ``val``: one drawing in twenty of the rest, for choosing anything.
5. ``train``: what remains.

"One in ten" is by CRC-32 of the UTF-8 name, which is the same everywhere, unlike Python's `hash`:
the choice changes neither with the order of the table nor when concepts are added.
"""

from collections.abc import Iterable
from zlib import crc32

from rankclip_jax.data.emoji import HELD_OUT_STYLE
from rankclip_jax.data.emoji.catalogue import Concept

SPLITS = ("train", "val", "test_style", "test_concept", "test_subgroup")
NUM_HELD_OUT_SUBGROUPS = 10


def stable_hash(text: str) -> int:
    """CRC-32 of the UTF-8 bytes: an int in [0, 2**32), equal on every machine."""
    return crc32(text.encode("utf-8"))


def held_out_subgroups(subgroups: Iterable[str]) -> frozenset[str]:
    """The `NUM_HELD_OUT_SUBGROUPS` names with the smallest hashes."""
    ordered = sorted(set(subgroups), key=lambda name: (stable_hash(name), name))
    return frozenset(ordered[:NUM_HELD_OUT_SUBGROUPS])


def split_of(concept: Concept, style: str, held_out: frozenset[str]) -> str:
    """Name of the split of one drawing; `held_out` comes from `held_out_subgroups`."""
    if concept.subgroup in held_out:
        return "test_subgroup"
    if stable_hash(concept.hexcode) % 10 == 0:
        return "test_concept"
    if style == HELD_OUT_STYLE:
        return "test_style"
    if stable_hash(f"{concept.hexcode}/{style}") % 20 == 0:
        return "val"
    return "train"
