"""Captions of images that have only the name of a class."""

from collections.abc import Sequence

from rankclip_jax.data.records import fill_template
from rankclip_jax.errors import UserError


def class_captions(names: Sequence[str], templates: Sequence[str]) -> list[tuple[str, ...]]:
    """The captions of each class: its name in every template.

    Raises:
      UserError: there is no template, or one without its place for the name.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"config.data.templates: {template!r} needs one {{}} for the name of the class.")
    if not templates:
        raise UserError("config.data.templates is empty, and images of classes get their captions by it: name one.")
    return [tuple(fill_template(template, name) for template in templates) for name in names]


def in_words(name: str) -> str:
    """A class as people write it: the name of its folder without the marks that stand for spaces."""
    return " ".join(name.replace("_", " ").split())
