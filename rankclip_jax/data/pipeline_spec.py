"""The syntax of `config.data.augment` and `text_augment`: ``"name|name(option=number)|..."``."""

import ast
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rankclip_jax.errors import UserError, lookup

EMPTY = ("", "none")


def is_empty(pipeline: str) -> bool:
    """Return whether a pipeline contains no augmentation."""
    return pipeline.strip() in EMPTY


def parse_pipeline(pipeline: str, known: Mapping[str, Callable[..., Any]], kind: str) -> list[partial]:
    """Return the functions of a pipeline in order, with their options; none for ``""`` and ``"none"``.

    Args:
      pipeline: the text.
      known: functions by name. Their options are the keyword-only arguments that have a default.
      kind: the word for these functions in error messages.

    Raises:
      UserError: a name or option is unknown, or the text cannot be parsed.
    """
    return [] if is_empty(pipeline) else [_parse_call(text.strip(), known, kind) for text in pipeline.split("|")]


def _parse_call(text: str, known: Mapping[str, Callable[..., Any]], kind: str) -> partial:
    try:
        call = ast.parse(text, mode="eval").body
        name = call.func.id if isinstance(call, ast.Call) else call.id
        keywords = call.keywords if isinstance(call, ast.Call) else []
        options = {keyword.arg: float(ast.literal_eval(keyword.value)) for keyword in keywords}
        invalid = isinstance(call, ast.Call) and call.args
    except (SyntaxError, AttributeError, ValueError, TypeError):
        invalid = True
    if invalid:
        raise UserError(f"cannot read {kind} {text!r}; write name or name(option=number).")
    function = lookup(known, name, kind)
    accepted = {name: None for name, value in defaults_of(function).items() if value is not inspect.Parameter.empty}
    for option in options:
        lookup(accepted, option, f"option of {kind} {name}")
    return partial(function, **options)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function's keyword-only arguments; `inspect.Parameter.empty` for one without default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
