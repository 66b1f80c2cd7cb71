"""Parts of files that are read over a network, from many threads.

``http(s)://`` by `requests`; every other scheme by fsspec and the client that it names: ``gs://`` needs
gcsfs, ``s3://`` s3fs (``pip install -e '.[gs]'``, ``'.[s3]'``), ``hf://`` is there with huggingface_hub.
What may pass, such as a lost connection or a server that is busy, is tried again with growing pauses.
"""

import functools
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rankclip_jax.errors import UserError, install_hint

T = TypeVar("T")
ATTEMPTS = 6
FIRST_PAUSE = 0.25  # seconds; doubled each time: 8 s in all
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
BUSY = (408, 425, 429, 500, 502, 503, 504)
EXTRAS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3"}
_of_thread = threading.local()  # requests' sessions are not meant to be shared


class _Passing(OSError):
    """A failure that may be over the next time."""


def read(url: str) -> bytes:
    """The whole file."""
    if _is_http(url):
        return _again(lambda: _get(url, {}).content)
    return _again(lambda: _system(url).cat_file(url))


def read_range(url: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`; fewer where the file ends."""
    if length <= 0:
        return b""
    if _is_http(url):
        return _again(lambda: _get_range(url, offset, length))
    return _again(lambda: _system(url).cat_file(url, start=offset, end=offset + length))


def stamp(url: str) -> tuple[int, str]:
    """Size in bytes, and a tag of the content as far as the server tells one."""
    if _is_http(url):
        return _again(lambda: _http_stamp(url))
    found = _again(lambda: _system(url).info(url))
    tags = [
        str(found[key]) for key in ("etag", "ETag", "md5Hash", "generation", "LastModified", "mtime") if key in found
    ]
    return int(found["size"]), _short("|".join(tags))


def glob(pattern: str) -> list[str]:
    """URLs of the files that match, where the storage can list them."""
    system = _system(pattern)
    return [system.unstrip_protocol(name) for name in _again(lambda: system.glob(pattern))]


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _short(tag: str) -> str:
    return hashlib.sha256(tag.encode()).hexdigest()[:16]


def _again(attempt: Callable[[], T]) -> T:
    """What `attempt` gives, once it does; the last failure if it never does."""
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except (OSError, TimeoutError, EOFError):  # requests' errors are OSErrors
            if number == ATTEMPTS - 1:
                raise
        # Processes that failed together must not come back together.
        time.sleep(FIRST_PAUSE * 2**number * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _session():
    if getattr(_of_thread, "process", None) != os.getpid():  # connections must not be shared with a parent
        import requests

        _of_thread.session, _of_thread.process = requests.Session(), os.getpid()
        # Bytes as they are: a compressed answer has other offsets.
        _of_thread.session.headers["Accept-Encoding"] = "identity"
    return _of_thread.session


def _get(url: str, headers: dict[str, str], **options):
    answer = _session().get(url, headers=headers, timeout=TIMEOUT, **options)
    if answer.status_code in (200, 206, 416):
        return answer
    answer.close()
    problem = f"{url}: the server answers {answer.status_code} {answer.reason}"
    if answer.status_code in (404, 410):
        raise FileNotFoundError(problem)
    if answer.status_code in BUSY:
        raise _Passing(problem)
    raise PermissionError(problem)


def _get_range(url: str, offset: int, length: int) -> bytes:
    with _get(url, {"Range": f"bytes={offset}-{offset + length - 1}"}, stream=True) as answer:
        if answer.status_code == 416:
            return b""
        if answer.status_code == 200:
            raise UserError(f"{url}: the server sends whole files only (no range requests): download the files first.")
        data = answer.content
    expected = int(answer.headers.get("Content-Length", len(data)))
    if len(data) < expected:
        raise _Passing(f"{url}: the connection ended after {len(data)} of {expected} bytes")
    return data


def _http_stamp(url: str) -> tuple[int, str]:
    # Not HEAD, which signed URLs and some servers refuse: the first byte, whose header tells the size.
    with _get(url, {"Range": "bytes=0-0"}, stream=True) as answer:
        headers = answer.headers
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if not total.isdigit():
        total = headers.get("Content-Length", "0")
    return int(total), _short(headers.get("ETag", "") or headers.get("Last-Modified", ""))


@functools.lru_cache(16)
def _filesystem(scheme: str, process: int):
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{scheme}:// needs fsspec: {install_hint(EXTRAS.get(scheme, 's3'))}.") from None
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        extra = f": {install_hint(EXTRAS[scheme])}" if scheme in EXTRAS else ""
        raise UserError(f"{scheme}:// cannot be read here ({error}){extra}.") from None


def _system(url: str):
    return _filesystem(url.partition("://")[0], os.getpid())
