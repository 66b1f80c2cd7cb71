"""Labelled images: class names, and captions made from them."""

from collections.abc import Sequence

from rankclip_jax.data.records import fill_template
from rankclip_jax.errors import UserError


def class_captions(names: Sequence[str], templates: Sequence[str]) -> list[tuple[str, ...]]:
    """The captions of each class: its name in every template. `UserError` if a template is invalid or there is none."""
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"config.data.templates: {template!r} needs one {{}} for the class name.")
    if not templates:
        raise UserError("config.data.templates is empty, but labelled images need it for captions: give one template.")
    return [tuple(fill_template(template, name) for template in templates) for name in names]


def checked_label(label: int | None, names: Sequence[str]) -> int:
    """`label`, if it is an index into `names`; otherwise `ValueError`."""
    if label is None or not 0 <= label < len(names):
        raise ValueError(f"label {label} is invalid for {len(names)} classes")
    return int(label)
