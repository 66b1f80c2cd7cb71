"""The captions of a pair in what a file holds for it."""

from typing import Any

import numpy as np

MISSING = ("", "nan")  # what tables have where a caption is missing; pandas writes the second


def captions_of(found: Any) -> tuple[str, ...]:
    """The captions in what a file holds for a record: a text, its bytes, or a list of them.

    Those that are empty, no text or not UTF-8 are left out, as long as one remains.

    Raises:
      ValueError: none remains (UnicodeError is a ValueError too).
    """
    captions, problem = [], ValueError("the caption is missing or empty")
    for item in found if isinstance(found, list | tuple | np.ndarray) else [found]:
        try:
            text = item.decode() if isinstance(item, bytes) else item
            is_text = isinstance(text, str) and bool(text.encode())  # refuses half of a pair of surrogates
        except UnicodeError as error:
            problem = error
            continue
        if is_text and text.strip().casefold() not in MISSING:
            captions.append(text.strip())
    if not captions:
        raise problem
    return tuple(captions)
