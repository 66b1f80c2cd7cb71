"""Captions in files or tar members of their own: what `caption_key` and `second_caption_key` mean there.

"txt" is the extension of a text. "json.caption" is the field "caption" of a JSON object, "json.a.b" the field "b" in
its object "a". The field may be a list of captions.
"""

from typing import NamedTuple


class CaptionKey(NamedTuple):
    """The extension of the file with the caption, and the path of its field; () if the file is the caption."""

    extension: str
    fields: tuple[str, ...]


def parse_key(key: str) -> CaptionKey:
    """Parse a key: "txt" is a file; "json.caption" and "meta.json.caption" are fields of a file."""
    extension, found, field = key.lstrip(".").partition("json.")
    if found:
        return CaptionKey(extension.lower() + "json", tuple(field.split(".")))
    return CaptionKey(key.lstrip(".").lower(), ())


def field_of(value: object, key: CaptionKey) -> tuple[str, ...]:
    """The captions in a parsed JSON file; `KeyError` if it lacks the field, `ValueError` if the field is not text."""
    for name in key.fields:
        if not isinstance(value, dict) or name not in value:
            found = f"found {', '.join(value)}" if isinstance(value, dict) else "it is not an object"
            raise KeyError(f"no field {'.'.join(key.fields)} in the {key.extension} member: {found}")
        value = value[name]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{'.'.join(key.fields)} in the {key.extension} member is not text: {value!r:.80}")
    return tuple(texts)
