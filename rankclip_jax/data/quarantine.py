"""The quarantine list, written by `data validate`: JSON lines with a ``key`` and a ``reason``."""

import hashlib
from collections.abc import Mapping

import numpy as np

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import decode, parse_json


def read_quarantine(path: str) -> frozenset[str]:
    """Keys of the pairs to leave out; none for "". `UserError` if the file cannot be read or a line is invalid."""
    if not path:
        return frozenset()
    try:
        lines = decode(locations.read(locations.resolved(path))).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read config.data.quarantine={path} ({error}): check the path.") from None
    keys = set()
    for number, line in enumerate(lines, 1):
        try:
            keys |= {parse_json(line)["key"]} if line.strip() else set()
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f'{path}, line {number}: expected {{"key": ..., "reason": ...}}, found {line[:80]}'
            ) from None
    return frozenset(keys)


def with_prefixes(keys: frozenset[str], sources: Mapping[str, PairSource]) -> frozenset[str]:
    """The keys as they are among several sources; a key without a prefix gets that of the only source that has it.

    Args:
      keys: keys of pairs, with or without a prefix.
      sources: sources by the prefix of their keys.

    Raises:
      UserError: a key without a prefix is in several sources.
    """
    bare = frozenset(key for key in keys if not key.startswith(tuple(sources))) if len(sources) > 1 else frozenset()
    owner: dict[str, str] = {}
    for prefix, pairs in sources.items():
        for index in pairs.find({prefix + key for key in bare}) if bare else ():
            key = pairs.key(int(index)).removeprefix(prefix)
            if key in owner:
                where = f"{owner[key][:-1]} and in {prefix[:-1]}"
                raise UserError(
                    f"config.data.quarantine lists {key}, which is in {where}: write it again by `data validate`, "
                    "which adds the location to each key."
                )
            owner[key] = prefix
    return (keys - bare) | {prefix + key for key, prefix in owner.items()}


def digest_of(keys: frozenset[str]) -> str:
    """sha256 hex of the keys, in any order."""
    return hashlib.sha256(repr(sorted(keys)).encode("utf-8", "backslashreplace")).hexdigest()


def find_quarantined(pairs: PairSource, keys: frozenset[str]) -> np.ndarray:
    """int [q], ascending: indices of the pairs whose key is in `keys`. Keys that match no pair are ignored."""
    return pairs.find(keys) if keys else np.zeros(0, np.int64)
