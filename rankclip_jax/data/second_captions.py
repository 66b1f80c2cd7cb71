"""Second captions from a separate file: JSON lines with ``key`` and ``second_caption``, for pairs of any format.

`python -m rankclip_jax.data captions` writes such a file; so can any captioning script. The config key is
``config.data.second_captions``.
"""

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from rankclip_jax.data.mixture import RedirectedPairs
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.progress import progress
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.data.sources.strings import packed, text_of
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import as_utf8, parse_json
from rankclip_jax.terminal.redact import redacted

HASH_BYTES = 8


class CaptionFile:
    """The captions of a file, in memory: their texts and 24 bytes per caption. `digest` is the file's sha256 hex."""

    def __init__(self, path: str, prefixes: Sequence[str] = ()):
        """Read the file.

        Args:
          path: local path or URL.
          prefixes: beginnings of keys, one of which some key must have; () for any keys.

        Raises:
          UserError: it cannot be read, or a line is invalid, or no key has a prefix.
        """
        try:
            data = locations.read(locations.resolved(path))
        except OSError as error:
            raise UserError(f"cannot read config.data.second_captions={path} ({error}): check the path.") from None
        self._path = path
        self.digest = hashlib.sha256(data).hexdigest()
        texts, hashes, num_known = [], [], 0
        for number, line in enumerate(progress(as_utf8(data).splitlines(), path, "line"), 1):
            if line.strip():
                key, text = _parse(path, number, line)
                hashes.append(_hash(key))
                texts.append(text)
                num_known += key.startswith(tuple(prefixes))
        if prefixes and texts and not num_known:
            raise UserError(
                f"the keys in {path} have no location, which they need if there are several: write the file again by "
                f"`data captions`, or begin each key with its location, such as {prefixes[0]}"
            )
        self._texts = packed(texts)
        self._order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        self._hashes = np.array(hashes, np.uint64)[self._order]

    def __len__(self) -> int:
        return len(self._texts)

    def captions(self, keys: Collection[str]) -> tuple[str, ...]:
        """The second captions of a pair with one of these keys, in the order of lines; `ValueError` if it has none."""
        for wanted in (np.uint64(_hash(key)) for key in keys):
            first, last = np.searchsorted(self._hashes, wanted), np.searchsorted(self._hashes, wanted, "right")
            if first < last:
                return captions_of([text_of(self._texts, row) for row in self._order[first:last].tolist()])
        raise ValueError(f"no second caption in {redacted(self._path)}")


def _parse(path: str, number: int, line: bytes) -> tuple[str, str]:
    """Key and second caption of a line."""
    try:
        found = parse_json(line)
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


class WithSecondCaptions(RedirectedPairs):
    """Pairs whose second captions are replaced by the captions of a file.

    Args:
      pairs: the pairs.
      captions: the file.
      optional_prefix: a beginning of keys that the keys in the file may lack.
    """

    has_second_captions = True

    def __init__(self, pairs: PairSource, captions: CaptionFile, optional_prefix: str = ""):
        self._pairs, self._captions, self._prefix = pairs, captions, optional_prefix
        self.class_names = pairs.class_names

    def __len__(self) -> int:
        return len(self._pairs)

    def second_captions(self, index: int) -> tuple[str, ...]:
        key = self._pairs.key(index)
        return self._captions.captions((key, key.removeprefix(self._prefix)))

    def find(self, keys: Collection[str]) -> np.ndarray:
        return self._pairs.find(keys)

    def digest(self) -> str:
        """Covers the pairs and the file."""
        return hashlib.sha256(f"{self._pairs.digest()} {self._captions.digest}".encode()).hexdigest()

    def _locate(self, index: int) -> tuple[PairSource, int]:
        return self._pairs, index
