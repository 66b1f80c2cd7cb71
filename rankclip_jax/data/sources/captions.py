"""Parses the captions of a pair from the value in its file."""

from typing import Any

import numpy as np

MISSING = ("", "nan")  # a missing caption in a table; pandas writes "nan"


def captions_of(found: Any) -> tuple[str, ...]:
    """The valid captions in a value of a file: a text, its bytes, or a list of them.

    Captions that are empty, not text or not UTF-8 are left out. `ValueError` (or its subclass `UnicodeError`) if no
    caption is left.
    """
    captions, problem = [], ValueError("the caption is missing or empty")
    for item in found if isinstance(found, list | tuple | np.ndarray) else [found]:
        try:
            text = item.decode() if isinstance(item, bytes) else item
            is_text = isinstance(text, str) and bool(text.encode())  # raises for half of a surrogate pair
        except UnicodeError as error:
            problem = error
            continue
        if is_text and text.strip().casefold() not in MISSING:
            captions.append(text.strip())
    if not captions:
        raise problem
    return tuple(captions)
