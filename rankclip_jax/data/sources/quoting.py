"""Whether the fields of a table are quoted.

Quotation marks are syntax only if they are used consistently: every field that begins with one ends with one, marks
inside are doubled (or escaped by a backslash), and no field holds whole rows. Otherwise they are part of the text, as
in the files of CC3M, and every line is a row. If most rows are quoted and a few are not, the file is damaged.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from rankclip_jax.errors import UserError

MOST = 0.5  # fraction of the rows: above, a file is meant to be quoted


class Quoting(NamedTuple):
    """How to read a table.

    Attributes:
      is_quoted: whether quotation marks are syntax.
      is_escaped: whether a backslash escapes marks inside quoted fields.
      problem: for a file whose marks are text: the first line where they cannot be syntax; otherwise "".
    """

    is_quoted: bool
    is_escaped: bool = False
    problem: str = ""


def quoting_of(file: str, data: bytes, separator: str, is_row: Callable[[bytes], bool]) -> Quoting:
    """Find how a table is quoted.

    Args:
      file: path, for the message.
      data: the whole file.
      separator: one character.
      is_row: whether a line is a row of this table, for lines inside a quoted field.

    Raises:
      UserError: most rows are quoted, and one is not; the message names its line.
    """
    begins = (b'\n"', b'\r"', separator.encode() + b'"')
    if not data.startswith(b'"') and not any(begin in data for begin in begins):
        return Quoting(is_quoted=True)  # no field begins with a mark
    mark = re.escape(separator.encode())
    problems = []
    for is_escaped in (False, True) if b'\\"' in data else (False,):
        problem = _problem(data, mark, is_escaped, is_row)
        if not problem:
            return Quoting(is_quoted=True, is_escaped=is_escaped)
        problems.append(problem)
    quoted = len(re.findall(rb'(?m)(?:^|%b)"[^"\r\n]*+(?:""[^"\r\n]*+)*+"(?=%b|\r?$)' % (mark, mark), data))
    if quoted > MOST * data.count(b"\n"):
        raise UserError(
            f"{file}, {problems[-1]}. Most rows are quoted: close it, and double every quotation mark in a text."
        )
    return Quoting(is_quoted=False, problem=problems[0])


def _problem(data: bytes, mark: bytes, is_escaped: bool, is_row: Callable[[bytes], bool]) -> str:
    """The first line where quotation marks cannot be syntax; "" if there is none."""
    inside = rb'[^"\\]*+(?:(?:""|\\.)[^"\\]*+)*+' if is_escaped else rb'[^"]*+(?:""[^"]*+)*+'
    if _end_of_rows(data, mark, rb'[^"\\\r\n]*+(?:""[^"\\\r\n]*+)*+') == len(data):
        return ""  # no field has a line break, which is usual and quickly found
    end = _end_of_rows(data, mark, inside)
    if end < len(data):
        return f"line {_line(data, end)}: a field begins with a quotation mark, but does not end with one"
    for found in re.finditer(rb'(?s)(?:\A|(?<=[\r\n])|(?<=%b))"(%b)"' % (mark, inside), data):
        if any(is_row(line) for line in found[1].splitlines()[1:]):
            return f"line {_line(data, found.start())}: a quotation mark opens a field that holds whole rows"
    return ""


def _end_of_rows(data: bytes, mark: bytes, inside: bytes) -> int:
    """Where the first row begins that is not well-formed; `inside` matches the text in a quoted field."""
    field = rb'(?:"%b"|(?!")[^%b\r\n]*+)' % (inside, mark)
    return re.compile(rb"(?s)(?:%b(?:%b%b)*+(?:\r\n|\n|\r|\Z))*+" % (field, mark, field)).match(data).end()


def _line(data: bytes, position: int) -> int:
    return 1 + len(re.findall(rb"\r\n|\n|\r", data[:position]))
