"""The language of `config.data.augment` and `text_augment`: ``"name|name(option=number)|..."``."""

import ast
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rankclip_jax.errors import UserError, lookup

NOTHING = ("", "none")


def is_nothing(pipeline: str) -> bool:
    """Whether a pipeline has no step at all."""
    return pipeline.strip() in NOTHING


def parse_steps(pipeline: str, known: Mapping[str, Callable[..., Any]], kind: str) -> list[partial]:
    """The steps of a pipeline, each with its options filled in.

    Args:
      pipeline: the text; ``""`` and ``"none"`` are no steps.
      known: functions by name; their options are the keyword arguments that have a default.
      kind: what they are, for messages.

    Raises:
      UserError: a step or option is unknown, or the text cannot be read.
    """
    return [] if is_nothing(pipeline) else [_step(text.strip(), known, kind) for text in pipeline.split("|")]


def _step(text: str, known: Mapping[str, Callable[..., Any]], kind: str) -> partial:
    try:
        call = ast.parse(text, mode="eval").body
        name = call.func.id if isinstance(call, ast.Call) else call.id
        keywords = call.keywords if isinstance(call, ast.Call) else []
        options = {keyword.arg: float(ast.literal_eval(keyword.value)) for keyword in keywords}
        positional = isinstance(call, ast.Call) and call.args
    except (SyntaxError, AttributeError, ValueError, TypeError):
        positional = True
    if positional:
        raise UserError(f"cannot read {kind} {text!r}; write name or name(option=number).")
    function = lookup(known, name, kind)
    taken = {name: None for name, default in defaults_of(function).items() if default is not inspect.Parameter.empty}
    for option in options:
        lookup(taken, option, f"option of {kind} {name}")
    return partial(function, **options)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only arguments of a function with their defaults; `inspect.Parameter.empty` for none."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
