"""Text and JSON from files: any Unicode encoding, with or without a byte-order mark."""

import json
import re
from typing import Any

MARKS = {  # the longer marks first, because UTF-32's begins with UTF-16's
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
# Of 4 bytes, those that are zero in many characters. Without a mark they show the encoding: UTF-8 has no zero bytes.
ZEROS = {
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
WHITE = re.compile(r"\s*")
SAMPLE = 4096  # bytes in which zero bytes are counted


def as_utf8(data: bytes) -> bytes:
    """Return text as UTF-8 without a byte-order mark. Bytes that are neither UTF-16 nor UTF-32 stay as they are."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS[mark] if mark else _without_mark(data[:SAMPLE])
    text = data[len(mark) :]
    return text if encoding == "utf-8" else text.decode(encoding, "replace").encode()


def decode(data: bytes) -> str:
    """Return text of any Unicode encoding; `UnicodeDecodeError` if it has none."""
    return as_utf8(data).decode()


def parse_json(data: bytes | str) -> Any:
    """Return the value in a JSON text of any Unicode encoding; `ValueError` if it is invalid or nested too deeply."""
    try:
        return json.loads(decode(data) if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_json_values(text: str) -> list[Any]:
    """Return the values in a text of several JSON values, one after the other; `ValueError` as in `parse_json`."""
    decoder, values, position = json.JSONDecoder(), [], 0
    try:
        while (position := WHITE.match(text, position).end()) < len(text):
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return values


def _without_mark(sample: bytes) -> str:
    if b"\0" not in sample or len(sample) < 4:
        return "utf-8"
    columns = [sample[i::4] for i in range(4)]
    return ZEROS.get(tuple(8 * column.count(0) > len(column) for column in columns), "utf-8")
