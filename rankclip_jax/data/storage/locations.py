"""Expands locations with globs and ranges into lists of files, and reads local and remote files.

A file is a local path (``file://`` too), or a URL such as ``https://...``, ``gs://...``, ``s3://...``, ``hf://...``.
In a URL, ``$NAME`` is an environment variable: secrets need not be in a config.
"""

import glob
import itertools
import logging
import os
import re
from collections.abc import Sequence

from rankclip_jax.data.storage import local_files, remote_files
from rankclip_jax.data.storage.folders import first_of_links
from rankclip_jax.data.storage.ranges import RANGE, expand_braces
from rankclip_jax.data.storage.split_names import known_split
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.terminal.redact import is_redacted, redacted

LOG = logging.getLogger(__name__)
SEPARATOR = "::"  # between several locations, as in open_clip's --train-data
MAX_FILES = 1_000_000  # a longer range must be a typing error
WILD = re.compile(r"[*?\[]")
COMPRESSED = re.compile(r"\.(?:gz|bz2|xz|zst|lz4|zip|7z)$")
VARIABLE = re.compile(r"\$(\w+)")
LOCAL = "file://"
POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024  # bytes of a pointer of git-lfs


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
    parts = [location] if is_local(location, root) else location.split(SEPARATOR)
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
    return "://" in path and not path.startswith(LOCAL)


def is_local(location: str, root: str = "") -> bool:
    """Whether a local file or folder has exactly this name, relative to `root`."""
    path = location if is_url(location) else _absolute(location, root) if location else ""
    return not is_url(path) and os.path.exists(path)


def resolved(path: str) -> str:
    """`path` with the home folder for ``~`` and, in a URL, the values of environment variables for ``$NAME``.

    Raises:
      UserError: a variable is not set, or the URL is from the record of a run, which holds no secrets.
    """
    if not is_url(path):
        return os.path.expanduser(path.removeprefix(LOCAL))
    if is_redacted(path):
        raise UserError(
            f"the secrets of {path} are not stored with the run: give the data again by --config, or write secrets as "
            "environment variables, as in 'https://host/data.tar?token=$TOKEN', and set these."
        )
    for name in VARIABLE.findall(path):
        if name not in os.environ:
            raise UserError(f"{path}: the environment variable {name} is not set: set it.")
    return VARIABLE.sub(lambda found: os.environ[found[1]], path)


def check_files(files: Sequence[str]) -> None:
    """Check local files before they are opened. Missing files are left to their reader.

    Raises:
      UserError: a file is a pipe or a device, which may have no end, or a pointer of git-lfs.
    """
    pointers = []
    for file in files:
        if is_url(file) or not os.path.exists(file) or os.path.isdir(file):
            continue
        try:
            size = local_files.check_regular(file)
            if size < MAX_POINTER and local_files.read(file).startswith(POINTER):
                pointers.append(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): name another file.") from None
    if pointers:
        raise UserError(f"{first_few(pointers, ', ')}: pointers of git-lfs instead of data: run `git lfs pull` there.")


def read(path: str, limit: int | None = None) -> bytes:
    """The whole file.

    Raises:
      OSError: the file is missing (`FileNotFoundError`), unreadable (after retries of temporary network failures),
        endless, larger than `limit` bytes, or a pointer of git-lfs.
    """
    data = remote_files.read(path, limit) if is_url(path) else local_files.read(path.removeprefix(LOCAL), limit)
    if len(data) < MAX_POINTER and data.startswith(POINTER):
        raise OSError(f"{redacted(path)} is a pointer of git-lfs instead of data: run `git lfs pull`")
    return data


def read_range(path: str, offset: int, length: int) -> bytes:
    """Exactly `length` bytes from `offset`; errors as in `read`, and `EOFError` if the file ends before."""
    files = remote_files if is_url(path) else local_files
    data = files.read_range(path, offset, length)
    if len(data) != length:
        raise EOFError(f"{redacted(path)} ends at byte {offset + len(data)}, expected {offset + length}")
    return data


def size(path: str) -> int:
    """Size of the file in bytes; errors as in `read`."""
    return stamp(path)[0]


def stamp(path: str) -> tuple[int, str]:
    """Size in bytes, and a text that changes with the content: time of the last change, or the server's tag."""
    return remote_files.stamp(path) if is_url(path) else local_files.stamp(path.removeprefix(LOCAL))


def exists(path: str) -> bool:
    """Whether the file exists. Some servers forbid to read missing files."""
    try:
        stamp(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return not is_url(path)
    return True


def _absolute(location: str, root: str) -> str:
    location, root = resolved(location), resolved(root)
    if is_url(location):
        return location
    if is_url(root):
        return f"{root.rstrip('/')}/{location}"
    return os.path.abspath(os.path.join(root, location))


def _expand_one(location: str, root: str, extensions: Sequence[str]) -> list[str]:
    path = _absolute(location, root)
    if not is_url(path) and os.path.exists(path):
        return _of_folder(path, extensions) if os.path.isdir(path) and extensions else [path]
    names = list(itertools.islice(expand_braces(location), MAX_FILES + 1))
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
        found = redacted(location), len(missing), len(names), redacted(missing[0])
        LOG.warning("%s: %d of %d files are missing, first %s", *found)
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
    found = glob.glob(resolved(name), root_dir=_absolute("", root), recursive=True)
    files = first_of_links(sorted(_absolute(file, root) for file in found))
    _warn_of_splits(name, files)
    return files


def _remote(url: str, extensions: Sequence[str]) -> list[str]:
    # In a URL "?" begins a query, and web servers do not list files.
    if url.startswith(("http://", "https://")):
        if "*" in url:
            raise UserError(f"{url}: web servers do not list files: name them by a range such as {{00000..00331}}.tar.")
        return [url]
    if url.endswith("/") and extensions:
        found = sorted(itertools.chain(*(_listed(f"{url}*{extension}") for extension in extensions)))
        _check_splits(url, [file.rpartition("/")[2] for file in found])
        return found
    if not WILD.search(url):
        return [url]
    found = sorted(_listed(url))
    _warn_of_splits(url, found)
    return found


def _listed(pattern: str) -> list[str]:
    try:
        return remote_files.glob(pattern)
    except OSError as error:
        raise UserError(f"{pattern} cannot be listed ({error}): check the location and your permissions.") from None


def _of_folder(folder: str, extensions: Sequence[str]) -> list[str]:
    known = [name for name in os.listdir(folder) if not name.startswith(".")]
    names = [name for name in known if name.lower().endswith(tuple(extensions))]
    packed = [name for name in set(known) - {*names} if COMPRESSED.sub("", name.lower()).endswith(tuple(extensions))]
    if packed:
        raise UserError(f"{folder} holds compressed files, such as {min(packed)}: decompress them, or name the others.")
    if not names:
        raise UserError(f"no {' or '.join(extensions)} files in {folder}: check the folder.")
    _check_splits(folder, names)
    return [os.path.join(folder, name) for name in sorted(names)]


def _check_splits(folder: str, names: Sequence[str]) -> None:
    """Raise `UserError` if the files of a folder belong to several splits by their names."""
    splits = _splits_of(names)
    if len(splits) > 1:
        raise UserError(
            f"{folder} holds several splits ({', '.join(splits)}): name the files of one by a glob, such as "
            f"{folder.rstrip('/')}/*{splits[0]}*."
        )


def _warn_of_splits(pattern: str, files: Sequence[str]) -> None:
    splits = _splits_of([os.path.basename(file) for file in files])
    if len(splits) > 1:
        text = "%s: the files belong to several splits by their names (%s), and all are read"
        LOG.warning(text, redacted(pattern), ", ".join(splits))


def _splits_of(names: Sequence[str]) -> list[str]:
    return sorted(filter(None, {known_split(name) for name in names}))


def _hint(path: str, location: str, root: str) -> str:
    if location == path or is_url(path):
        return ""
    return f" It is relative to {'config.data.root' if root else 'the current folder, as config.data.root is empty'}."
