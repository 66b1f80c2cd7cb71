"""Expands names with ranges ``{00000..00331}`` and lists ``{a,b}``, as a shell does."""

import re
from collections.abc import Iterator

from rankclip_jax.errors import UserError

RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")


def expand_braces(text: str) -> Iterator[str]:
    """All expansions of ``{1..3}`` and ``{a,b}`` in `text`; the last braces vary fastest."""
    found = _first_braces(text)
    if not found:
        yield text
        return
    begin, end = found
    for value in _values(text[begin + 1 : end], text):
        for rest in expand_braces(text[end + 1 :]):
            yield text[:begin] + value + rest


def _first_braces(text: str) -> tuple[int, int] | None:
    depth, begin = 0, -1
    for i, character in enumerate(text):
        if character == "{":
            begin = i if depth == 0 else begin
            depth += 1
        elif character == "}" and depth:
            depth -= 1
            if depth == 0:
                return begin, i
    if depth:
        raise UserError(f"{text}: a brace is not closed; ranges are written {{00000..00331}}.")
    return None


def _values(inside: str, text: str) -> Iterator[str]:
    number_range = RANGE.fullmatch(inside)
    if number_range:
        first, last, step = number_range[1], number_range[2], int(number_range[3] or 1)
        low, high = int(first), int(last)
        if step == 0 or low > high:
            raise UserError(f"{text}: the range {{{inside}}} is empty; the smaller number comes first.")
        # As in a shell: if one number has a leading zero, all numbers get the same width.
        padded = any(number.lstrip("-").startswith("0") and len(number) > 1 for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return (f"{number:0{width}d}" for number in range(low, high + 1, step))
    if "," not in inside and "{" not in inside:
        raise UserError(f"{text}: {{{inside}}} is invalid: write a range {{00000..00331}} or a list {{a,b}}.")
    return (value for choice in _choices(inside) for value in expand_braces(choice))


def _choices(inside: str) -> Iterator[str]:
    """Split at the commas outside inner braces."""
    depth, begin = 0, 0
    for i, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield inside[begin:i]
            begin = i + 1
    yield inside[begin:]
