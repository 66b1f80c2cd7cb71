"""JSON files that anything may have damaged: read with one error of one line, and checked against an example."""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import decode

LIMIT = 256 << 20  # bytes of a file; the largest, with the tokenizer of a large vocabulary, have tens of MiB
EACH = "*"  # the only key of an example mapping whose keys are free: every value must fit


def read_json(path: str | os.PathLike, like: Any, advice: str) -> Any:
    """Return the content of a JSON file; None if there is no file.

    Args:
      like: an example, see `misfit`.
      advice: what to do about a damaged file, the end of the message.

    Raises:
      UserError: the file cannot be read, is no JSON, or does not fit `like`.
    """
    text = read_text(path, advice)
    if text is None:
        return None
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({_reason(error)}): {advice}") from None
    problem = misfit(content, like)
    if problem:
        raise UserError(f"{path} is damaged ({problem}): {advice}")
    return content


def read_text(path: str | os.PathLike, advice: str) -> str | None:
    """Return the text of a file in any Unicode encoding; None if there is no file.

    Raises:
      UserError: it is no regular file, cannot be read, is too large, or is no text.
    """
    try:
        size = regular_size(path, advice)
        if size > LIMIT:
            raise UserError(f"{path} has {size >> 20:,} MiB, more than {LIMIT >> 20}: {advice}")
        return decode(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged (no text: {error.reason}): {advice}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {advice}") from None


def regular_size(path: str | os.PathLike, advice: str) -> int:
    """Return the size of a regular file in bytes; reading a device or a pipe might never end.

    Raises:
      UserError: the path is something else.
      FileNotFoundError: there is nothing.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise UserError(f"{path} cannot be read (it is {kind}): {advice}")
    return status.st_size


def misfit(value: Any, like: Any, where: str = "") -> str:
    """Say where a JSON value differs in type from the example `like`; "" if it fits.

    A mapping must have every key of the example except those that end with "?" there, and may have more. The value of
    an example with the single key `EACH` is for any key. Every item of a list must fit the example's only item. Numbers
    must be finite; a whole number fits where the example has a float, and not the other way round. None in the example
    fits anything.
    """
    name = where or "it"
    if like is None:
        return ""
    if isinstance(like, Mapping):
        return _mapping_misfit(value, like, where)
    if isinstance(like, list | tuple):
        if not isinstance(value, list):
            return f"{name} is {_kind(value)} instead of a list"
        items = enumerate(value if like else ())
        return next(filter(None, (misfit(item, like[0], f"{name}[{i}]") for i, item in items)), "")
    if isinstance(like, bool | str):
        fits = isinstance(value, type(like))
    else:
        fits = isinstance(value, int | float if isinstance(like, float) else int) and not isinstance(value, bool)
        if fits and not _is_finite(value):
            return f"{name} is not a finite number"
    return "" if fits else f"{name} is {_kind(value)} instead of {_kind(like)}"


def _mapping_misfit(value: Any, like: Mapping, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where or 'it'} is {_kind(value)} instead of an object"
    examples = dict.fromkeys(value, like[EACH]) if set(like) == {EACH} else like
    for name, example in examples.items():
        key = name.removesuffix("?")
        if key not in value and key != name:
            continue
        if key not in value:
            return f"{where or 'it'} has no {key!r}"
        problem = misfit(value[key], example, f"{where}.{key}" if where else key)
        if problem:
            return problem
    return ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _kind(value: Any) -> str:
    names = {bool: "a boolean", str: "a text", int: "a whole number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:120]
