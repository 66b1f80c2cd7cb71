"""Removes secrets from text before it is stored or shown."""

import re

MARK = "REDACTED"
USER = re.compile(r"(?<=://)[^\s/?#'\"<>|]+(?=@)")  # "user:password" in "https://user:password@host"
# The name of an environment variable, which `storage.locations` replaces, is no secret.
VARIABLE = re.compile(r"(?:[\w.-]+:)?\$\w+|\$\w+:\$\w+")
PARAMETER = re.compile(rf"(?<=[?&#])([^\s?&#=/'\"<>|]+)=(?!{MARK})((?:(?!::)[^\s&#'\"<>|])+)")
# Query parameters that name a file or its form. All others may be secret: keys, tokens and signatures have many names.
HARMLESS = (
    "alt", "dl", "download", "export", "file", "file_name", "filename", "fmt", "format", "h", "height", "id", "index",
    "lang", "name", "object", "page", "part", "path", "q", "quality", "raw", "ref", "rev", "revision", "shard", "size",
    "split", "v", "version", "w", "width",
)  # fmt: skip


def redacted(text: str) -> str:
    """Return `text` without the secrets in its URLs, for messages, keys of pairs and everything that is stored.

    User names, passwords, and the values of query parameters that are not in `HARMLESS` become ``REDACTED``. The text
    may be one URL, several, or a sentence that holds URLs or parts of them. Applied again, it changes nothing.
    """
    if "://" not in text and "=" not in text:
        return text
    return PARAMETER.sub(_without_value, USER.sub(_without_user, text))


def is_redacted(url: str) -> bool:
    """Whether `redacted` has removed a secret from `url`."""
    return f"://{MARK}@" in url or f"={MARK}" in url


def _without_user(found: re.Match) -> str:
    return found[0] if VARIABLE.fullmatch(found[0]) else MARK


def _without_value(found: re.Match) -> str:
    is_kept = found[1].lower() in HARMLESS or VARIABLE.fullmatch(found[2])
    return found[0] if is_kept else f"{found[1]}={MARK}"


def redacted_values(value: object) -> object:
    """Return nested dicts, lists and tuples with every text `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: redacted_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redacted_values, value))
    return value
