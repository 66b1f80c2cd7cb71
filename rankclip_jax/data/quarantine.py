"""The list of bad pairs that `data validate` writes: JSON lines with a ``key`` and a ``reason``."""

import hashlib
import json
import logging

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes

LOG = logging.getLogger(__name__)


def read_quarantine(path: str) -> frozenset[str]:
    """Keys of the pairs to leave out; none for "".

    Raises:
      UserError: the file is not there, or a line is not such an object.
    """
    if not path:
        return frozenset()
    try:
        lines = locations.read(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read config.data.quarantine={path} ({error}): check the path.") from None
    keys = set()
    for number, line in enumerate(lines, 1):
        try:
            keys |= {json.loads(line)["key"]} if line.strip() else set()
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f'{path}, line {number}: expected {{"key": ..., "reason": ...}}, found {line[:80]}'
            ) from None
    return frozenset(keys)


def digest_of(keys: frozenset[str]) -> str:
    """sha256 hex of the keys, whatever their order."""
    return hashlib.sha256(repr(sorted(keys)).encode("utf-8", "backslashreplace")).hexdigest()


def sound_pairs(pairs: PairSource, keys: frozenset[str]) -> np.ndarray:
    """int, numbers of the pairs whose key is not among `keys`; one that no pair has is none of ours."""
    numbers = np.arange(len(pairs))
    if not keys:
        return numbers
    if hasattr(pairs, "find"):
        return np.delete(numbers, pairs.find(keys))
    hidden = None if processes.is_main() and len(pairs) > 1_000_000 else True
    bar = tqdm(numbers, desc="looking for quarantined pairs", unit="pair", leave=False, disable=hidden)
    return np.array([number for number in bar if pairs.key(int(number)) not in keys], np.int64)
