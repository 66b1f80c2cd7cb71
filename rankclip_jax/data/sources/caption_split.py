"""Several captions in one text: the rule of `config.data.caption_split`, the same for all formats.

A text of a file (a cell, a field, a member of a tar, a text file) is one caption, and a list of texts is a list of
captions. With ``lines``, every line of a text is a caption; with ``list``, a text such as ``["a fox", "a red fox"]``,
in the syntax of JSON, Python or NumPy, is a list of captions.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from rankclip_jax.data.mixture import RedirectedPairs
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.sources.captions import captions_of
from rankclip_jax.errors import lookup
from rankclip_jax.files.text_files import parse_json

NUMPY_GAP = re.compile(r"""(?<=['"])\s+(?=['"])""")  # NumPy prints no commas


def parse_list(text: str) -> list[str]:
    """The items of a list in the syntax of JSON, Python or NumPy; `ValueError` for an invalid list or item.

    A text that does not begin with ``[`` is its only item.
    """
    if not text.lstrip().startswith("["):
        return [text]
    try:
        items = parse_json(text)
    except ValueError:
        items = _parse_python(text)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"the caption is not a list of texts: {text!r:.80}")
    return items


def _parse_python(text: str) -> object:
    try:
        return ast.literal_eval(NUMPY_GAP.sub(", ", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


CAPTION_SPLITS: dict[str, Callable[[str], list[str]]] = {"lines": str.splitlines, "list": parse_list}


class SplitCaptions(RedirectedPairs):
    """Pairs whose captions and second captions are split by the rule `split`, a key of `CAPTION_SPLITS`.

    Raises:
      UserError: the rule is unknown.
    """

    def __init__(self, pairs: PairSource, split: str):
        self._pairs, self._split = pairs, split
        self._parts = lookup(CAPTION_SPLITS, split, "value of config.data.caption_split")
        self.has_second_captions = pairs.has_second_captions

    def __len__(self) -> int:
        return len(self._pairs)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._of(self._pairs.captions(index))

    def second_captions(self, index: int) -> tuple[str, ...]:
        return self._of(self._pairs.second_captions(index)) if self.has_second_captions else ()

    def find(self, keys: Collection[str]) -> np.ndarray:
        return self._pairs.find(keys)

    def digest(self) -> str:
        """Covers the pairs and the rule."""
        return hashlib.sha256(f"{self._pairs.digest()} {self._split}".encode()).hexdigest()

    def _of(self, texts: Sequence[str]) -> tuple[str, ...]:
        return captions_of([caption for text in texts for caption in self._parts(text)])

    def _locate(self, index: int) -> tuple[PairSource, int]:
        return self._pairs, index
