"""Sizes and stamps of many tars. For remote tars with an index a sample is enough: 200,000 requests take minutes."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError

CONNECTIONS = 32  # for requesting the sizes of files, remote ones or on a network file system
CHECKED = 1000  # remote files whose stamps are requested if all of them have an index
BLOCK = 64  # files that a thread asks for at a time

Stamp = tuple[int, str]  # size in bytes, text that changes with the content: `locations.stamp`


def stamps_of(files: Sequence[str], known: Mapping[str, Stamp], check_all: bool = False) -> list[Stamp]:
    """The stamp of each file.

    If `known` has the stamps of all files, and more than `CHECKED` of them are remote, only `CHECKED` stamps are
    requested, evenly spread over the files. If these have not changed, the others are taken from `known`.

    Raises:
      UserError: a file that was asked for is missing or unreadable.
    """
    if not check_all and len(files) > CHECKED and all(file in known and locations.is_url(file) for file in files):
        sample = files[:: -(-len(files) // CHECKED)]
        if _requested(sample) == [known[file] for file in sample]:
            return [known[file] for file in files]
    return _requested(files)


def _requested(files: Sequence[str]) -> list[Stamp]:
    size = max(1, min(BLOCK, -(-len(files) // CONNECTIONS)))
    blocks = [files[start : start + size] for start in range(0, len(files), size)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [stamp for block in pool.map(lambda block: [*map(_stamp, block)], blocks) for stamp in block]


def _stamp(file: str) -> Stamp:
    try:
        return locations.stamp(file)
    except FileNotFoundError as error:
        raise UserError(f"no tar at {file}: check the location, or leave it out of the range ({error}).") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}): check the location and your permissions.") from None
