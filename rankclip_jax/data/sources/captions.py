"""Parses the captions of a pair from the value in its file."""

import re
import unicodedata
from typing import Any

import numpy as np

from rankclip_jax.files.text_files import decode

# A missing caption in a table, as pandas, Excel, R and JavaScript write it.
MISSING = ("", "nan", "none", "null", "<na>", "na", "n/a", "#n/a", "undefined")
ASCII_INK = re.compile("[!-~]")
# Categories of Unicode without ink of their own: controls, formats, half pairs, private use, marks, separators.
BLANK = frozenset(("Cc", "Cf", "Cs", "Co", "Mn", "Me", "Zs", "Zl", "Zp"))
FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffd")  # drawn as spaces; the mark of undecodable bytes


def captions_of(found: Any) -> tuple[str, ...]:
    """The valid captions in a value of a file: a text, its bytes, or a list of them.

    Captions without a visible character, not text or not Unicode are left out. `ValueError` (or its subclass
    `UnicodeError`) if no caption is left.
    """
    captions, problem = [], ValueError("the caption is missing or empty")
    for item in found if isinstance(found, list | tuple | np.ndarray) else [found]:
        try:
            text = decode(item) if isinstance(item, bytes) else item
            is_text = isinstance(text, str) and bool(text.encode())  # raises for half of a surrogate pair
        except UnicodeError as error:
            problem = error
            continue
        if is_text and is_visible(text) and (text := text.lstrip("\ufeff").strip()).casefold() not in MISSING:
            captions.append(text)
    if not captions:
        raise problem
    return tuple(captions)


def is_visible(text: str) -> bool:
    """Whether `text` has a character that is printed with ink."""
    if ASCII_INK.search(text):
        return True
    return any(unicodedata.category(c) not in BLANK and c not in FILLERS for c in text)
