"""Expands locations with globs and ranges into lists of files, and reads local and remote files.

A file is a local path, or a URL such as ``https://...``, ``gs://...``, ``s3://...``, ``hf://...``.
"""

import glob
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence

from rankclip_jax.data.storage import local_files, remote_files
from rankclip_jax.errors import UserError

LOG = logging.getLogger(__name__)
SEPARATOR = "::"  # between several locations, as in open_clip's --train-data
MAX_FILES = 1_000_000  # a longer range must be a typing error
WILD = re.compile(r"[*?\[]")
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")


def expand(location: str, root: str = "", extensions: Sequence[str] = ()) -> list[str]:
    """Return the files of a location, as absolute paths or URLs.

    A location has one or several of these, joined by ``::``: a path, a glob (``*``, ``?``, ``[ab]``, ``**`` for any
    depth; the files are sorted), or a name with ranges ``{00000..00331}`` or lists ``{a,b}``, whose order is kept.
    A file with exactly the given name, including special characters, has priority. ``~`` is the home folder.

    Args:
      location: see above; relative paths start from `root`.
      root: folder or URL; "" for the current folder.
      extensions: a folder stands for its files with these endings, such as (".tar",). If (), it stands for itself.

    Raises:
      UserError: no file is found, or a range is invalid. If only some files of a range are missing, a warning is
        logged. URLs from ranges are not checked.
    """
    if not location.strip():
        raise UserError("a data location is empty: name a file, a folder, a glob or a range such as {0..9}.tar.")
    parts = [location] if os.path.exists(_absolute(location, root)) else location.split(SEPARATOR)
    return [file for part in parts for file in _expand_one(part.strip(), root, extensions)]


def is_path(location: str, root: str = "") -> bool:
    """Whether a location relative to `root` begins with an existing local file or folder."""
    first, folder = location.split("/", 1)[0], _absolute("", root)
    if os.path.lexists(os.path.join(folder, first)):
        return True
    begin = re.match(r"[^*?\[{]*", first)[0]  # of a glob or range
    return begin != first and os.path.isdir(folder) and any(name.startswith(begin) for name in os.listdir(folder))


def is_url(path: str) -> bool:
    """Whether `path` is a URL, which `remote_files` reads."""
    return "://" in path


def read(path: str) -> bytes:
    """The whole file; `FileNotFoundError`, or another `OSError` after retries of temporary network failures."""
    return remote_files.read(path) if is_url(path) else local_files.read(path)


def read_range(path: str, offset: int, length: int) -> bytes:
    """Exactly `length` bytes from `offset`; errors as in `read`, and `EOFError` if the file ends before."""
    files = remote_files if is_url(path) else local_files
    data = files.read_range(path, offset, length)
    if len(data) != length:
        raise EOFError(f"{path} ends at byte {offset + len(data)}, expected {offset + length}")
    return data


def size(path: str) -> int:
    """Size of the file in bytes; errors as in `read`."""
    return stamp(path)[0]


def stamp(path: str) -> tuple[int, str]:
    """Size in bytes, and a text that changes with the content: time of the last change, or the server's tag."""
    return remote_files.stamp(path) if is_url(path) else local_files.stamp(path)


def exists(path: str) -> bool:
    """Whether the file exists."""
    try:
        stamp(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _absolute(location: str, root: str) -> str:
    location = os.path.expanduser(location)
    if is_url(location):
        return location
    if is_url(root):
        return f"{root.rstrip('/')}/{location}"
    return os.path.abspath(os.path.join(os.path.expanduser(root), location))


def _expand_one(location: str, root: str, extensions: Sequence[str]) -> list[str]:
    path = _absolute(location, root)
    if not is_url(path) and os.path.exists(path):
        return _of_folder(path, extensions) if os.path.isdir(path) and extensions else [path]
    names = list(itertools.islice(_braces(location), MAX_FILES + 1))
    if len(names) > MAX_FILES:
        raise UserError(f"{location} names more than {MAX_FILES:,} files: correct its ranges.")
    files, missing = [], []
    for name in names:
        found = _remote(_absolute(name, root), extensions) if is_url(path) else _local(name, root, extensions)
        files += found
        missing += [] if found else [_absolute(name, root)]
    if not files:
        raise UserError(f"no file at {path}: check the path.{_hint(path, location, root)}")
    if missing and not RANGE.search(location):
        raise UserError(f"no file at {missing[0]}, one of {location}: check the name.")
    if missing:
        LOG.warning("%s: %d of %d files are missing, first %s", location, len(missing), len(names), missing[0])
    return files


def _local(name: str, root: str, extensions: Sequence[str]) -> list[str]:
    path = _absolute(name, root)
    if os.path.isdir(path) and extensions:
        return _of_folder(path, extensions)
    if os.path.exists(path):
        return [path]
    if not WILD.search(name):
        return []
    # The root is not part of the pattern: its name may have special characters.
    found = glob.glob(os.path.expanduser(name), root_dir=_absolute("", root), recursive=True)
    return sorted(_absolute(file, root) for file in found)


def _remote(url: str, extensions: Sequence[str]) -> list[str]:
    # In a URL "?" begins a query, and web servers do not list files.
    if url.startswith(("http://", "https://")):
        if "*" in url:
            raise UserError(f"{url}: web servers do not list files: name them by a range such as {{00000..00331}}.tar.")
        return [url]
    if url.endswith("/") and extensions:
        return sorted(itertools.chain(*(remote_files.glob(f"{url}*{extension}") for extension in extensions)))
    return sorted(remote_files.glob(url)) if WILD.search(url) else [url]


def _of_folder(folder: str, extensions: Sequence[str]) -> list[str]:
    names = [name for name in os.listdir(folder) if name.endswith(tuple(extensions)) and not name.startswith(".")]
    if not names:
        raise UserError(f"no {' or '.join(extensions)} files in {folder}: check the folder.")
    return [os.path.join(folder, name) for name in sorted(names)]


def _hint(path: str, location: str, root: str) -> str:
    if location == path or is_url(path):
        return ""
    return f" It is relative to {'config.data.root' if root else 'the current folder, as config.data.root is empty'}."


def _braces(text: str) -> Iterator[str]:
    """All expansions of ``{1..3}`` and ``{a,b}`` in `text`; the last braces vary fastest."""
    found = _first_braces(text)
    if not found:
        yield text
        return
    begin, end = found
    for value in _values(text[begin + 1 : end], text):
        for rest in _braces(text[end + 1 :]):
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
    return (value for choice in _choices(inside) for value in _braces(choice))


def _choices(inside: str) -> Iterator[str]:
    """Split at the commas outside inner braces."""
    depth, begin = 0, 0
    for i, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield inside[begin:i]
            begin = i + 1
    yield inside[begin:]
