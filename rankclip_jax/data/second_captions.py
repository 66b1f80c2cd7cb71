"""Second captions in a file of their own, by the keys of the pairs: JSON lines with ``key`` and ``second_caption``.

`python -m rankclip_jax.data captions` writes such a file, and so can any captioning script. It works with every
format: ``config.data.second_captions``.
"""

import hashlib
import json

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.sources.strings import Strings
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

HASH_BYTES = 8


class CaptionFile:
    """The captions of a file in memory: 16 bytes each and their text.

    Attributes:
      digest: sha256 hex of the file.
    """

    def __init__(self, path: str):
        """Read the file; `UserError` if it is not there, or a line is not such an object."""
        try:
            data = locations.read(path)
        except OSError as error:
            raise UserError(f"cannot read config.data.second_captions={path} ({error}): check the path.") from None
        self._path = path
        self.digest = hashlib.sha256(data).hexdigest()
        texts, hashes = [], []
        for number, line in enumerate(tqdm(data.splitlines(), desc=path, unit="line", leave=False, delay=2), 1):
            if line.strip():
                key, text = _pair(path, number, line)
                hashes.append(_hash(key))
                texts.append(text)
        self._texts = Strings.of(texts)
        self._order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        self._hashes = np.array(hashes, np.uint64)[self._order]

    def __len__(self) -> int:
        return len(self._texts)

    def of(self, key: str) -> tuple[str, ...]:
        """The captions of a pair, in the order of their lines; `ValueError` if there are none."""
        wanted = np.uint64(_hash(key))
        first, last = np.searchsorted(self._hashes, wanted), np.searchsorted(self._hashes, wanted, "right")
        if first == last:
            raise ValueError(f"no second caption in {self._path}")
        return tuple(self._texts.text(row) for row in self._order[first:last].tolist())


def _pair(path: str, number: int, line: bytes) -> tuple[str, str]:
    try:
        found = json.loads(line)
        key, text = found["key"], found["second_caption"]
        if isinstance(key, str) and isinstance(text, str):
            return key, text
    except (ValueError, KeyError, TypeError):
        pass
    shown = line[:80].decode(errors="replace")
    raise UserError(f'{path}, line {number}: expected {{"key": ..., "second_caption": ...}}, found {shown}')


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little")


class WithSecondCaptions:
    """Pairs with the second captions of a file; see `PairSource`. The optional methods of `pairs` stay."""

    def __init__(self, pairs: PairSource, captions: CaptionFile):
        self._pairs, self._file = pairs, captions
        self.key, self.captions, self.image = pairs.key, pairs.captions, pairs.image
        for name in ("find", "class_names", "label"):
            if hasattr(pairs, name):
                setattr(self, name, getattr(pairs, name))

    def __len__(self) -> int:
        return len(self._pairs)

    def second_captions(self, index: int) -> tuple[str, ...]:
        return self._file.of(self._pairs.key(index))

    def digest(self) -> str:
        """Of the pairs and the file."""
        return hashlib.sha256(f"{self._pairs.digest()} {self._file.digest}".encode()).hexdigest()
