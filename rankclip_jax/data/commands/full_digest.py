"""A digest of everything in the pairs, for `stats --full_digest`. Training stores a faster one, which covers less."""

import hashlib
from collections.abc import Sequence
from functools import partial

from rankclip_jax.data.commands.sections import Section
from rankclip_jax.data.in_parallel import in_parallel
from rankclip_jax.data.pairs import PairSource


def full_digest(section: Section, threads: int) -> tuple[str, int]:
    """Read all pairs of a location.

    Returns:
      sha256 hex of keys, captions, second captions, labels and encoded images, in their order; and the number of pairs
      with an unreadable part, which is covered as unreadable.
    """
    sha, bad = hashlib.sha256(), 0
    work, indices = partial(_digests, section.pairs, section.prefix), range(len(section.pairs))
    for digests, unreadable in in_parallel(work, indices, threads, f"reading {section.name}"):
        sha.update(digests)
        bad += unreadable
    return sha.hexdigest(), bad


def _digests(pairs: PairSource, prefix: str, indices: Sequence[int]) -> tuple[bytes, int]:
    """The digests of some pairs, joined, and the number of pairs with an unreadable part."""
    found, unreadable = [], 0
    for index in indices:
        parts = [_read(partial(read, index)) for read in (pairs.captions, pairs.second_captions, pairs.label)]
        image = _read(partial(pairs.image_bytes, index))
        unreadable += None in (*parts, image)
        facts = (pairs.key(index).removeprefix(prefix), *parts, image and hashlib.sha256(image[0]).digest())
        found.append(hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).digest())
    return b"".join(found), unreadable


def _read(read: partial) -> tuple | None:
    """The value in a tuple; None if it cannot be read."""
    try:
        return (read(),)
    except Exception:  # `validate` reports the pair and the reason
        return None
