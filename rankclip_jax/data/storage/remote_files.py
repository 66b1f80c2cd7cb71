"""Reads parts of files over a network, from many threads.

`requests` reads ``http(s)://``. fsspec reads every other scheme by a client library: ``gs://`` needs gcsfs
(``pip install -e '.[gs]'``), ``s3://`` needs s3fs (``'.[s3]'``), ``hf://`` needs huggingface_hub.

Temporary failures are retried. The pauses are random: processes that failed together must not retry together.

  HTTP request   a lost connection or a busy server (429, 500 to 504): up to 8 retries after 0, 1, 2, 4, 8, 16, 30 and
                 30 s, 1.5 minutes in total. Longer pauses that the server asks for by Retry-After are kept, up to 60 s
                 each, 8 minutes in total.
  HTTP response  if it ends early, the request is sent again, up to 5 times within about 8 s.
  fsspec         up to 5 retries within about 8 s, in addition to the retries of the client library.

Each attempt waits at most 10 s for a connection, 60 s between two parts of a response and 60 s for its headers. It is
an error without a retry if a response is slower than 10 kB/s on average after 30 s, takes more than 10 minutes, or is
larger than asked for. A file that is read as a whole may have 512 MiB.

Errors hold no secrets of the URL.
"""

import functools
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import requests
from urllib3.exceptions import HTTPError

from rankclip_jax.data.storage.http_pools import Adapter, PatientRetry
from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.terminal.redact import redacted
from rankclip_jax.terminal.show import make_printable

T = TypeVar("T")
RETRIES = 8
BACKOFF, BACKOFF_MAX = 0.5, 30.0  # seconds: the unit of the pauses, which double, and the longest pause
RETRY_AFTER_MAX = 60.0  # seconds
BUSY = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT = (10, 60)  # seconds to connect, and between two parts of a response
PATIENCE, MIN_RATE = 30.0, 10_000  # seconds, and the bytes per second that a response must have after them
MAX_SECONDS = 600.0  # of a response
MAX_BYTES = 512 << 20  # of a file that is read as a whole
PART = 1 << 20  # bytes of a response that are read at a time
PAUSES = (0.25, 0.5, 1, 2, 4)  # seconds between attempts of `_repeat`
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)
TAGS = ("etag", "ETag", "md5Hash", "generation", "LastModified", "mtime")  # by client library of fsspec
EXTRAS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3"}
logging.getLogger("urllib3.connectionpool").addFilter(make_printable)  # it logs URLs when it repeats a request
_local = threading.local()  # sessions of requests must not be shared between threads


class _EndedEarly(OSError):
    """The connection ended before the response was complete."""


class _Retry(PatientRetry):
    """Waits as long as the server asks for by Retry-After, but at least the usual pause and at most a limit."""

    def get_retry_after(self, response) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(RETRY_AFTER_MAX, max(seconds, self.get_backoff_time()))


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Raise errors again without the secrets of URLs; types that are not builtin become `OSError`."""
    try:
        yield
    except Exception as error:  # client libraries have their own types
        if redacted(str(error)) == str(error) and isinstance(error, OSError | UserError):
            raise
        kind = next((kind for kind in (*PERMANENT, UserError) if isinstance(error, kind)), OSError)
        raise kind(redacted(str(error))) from None


@_without_secrets()
def read(url: str, limit: int | None = None) -> bytes:
    """The whole file; `OSError` if it has more than `limit` bytes, by default `MAX_BYTES`."""
    limit = MAX_BYTES if limit is None else limit
    if _is_http(url):
        return _repeat(lambda: _get(url, {}, limit), _EndedEarly)
    size = stamp(url)[0]
    if size > limit:
        raise OSError(f"{url} has {size:,} bytes, more than the limit of {limit:,}: download the file")
    return _repeat(lambda: _filesystem_of(url).cat_file(url))


@_without_secrets()
def read_range(url: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`; fewer at the end of the file."""
    if length <= 0:
        return b""
    if _is_http(url):
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        return _repeat(lambda: _get(url, headers, length), _EndedEarly)
    return _repeat(lambda: _filesystem_of(url).cat_file(url, start=offset, end=offset + length))


@_without_secrets()
def stamp(url: str) -> tuple[int, str]:
    """Size in bytes, and a tag that changes with the content, if the server has one."""
    if _is_http(url):
        return _http_stamp(url)
    found = _repeat(lambda: _filesystem_of(url).info(url))
    return int(found["size"] or 0), _short("|".join(str(found[key]) for key in TAGS if key in found))


@_without_secrets()
def glob(pattern: str) -> list[str]:
    """URLs of the files that match; the storage must be able to list files."""
    system = _filesystem_of(pattern)
    return [system.unstrip_protocol(name) for name in _repeat(lambda: system.glob(pattern))]


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _short(tag: str) -> str:
    return hashlib.sha256(tag.encode()).hexdigest()[:16]


def _repeat(attempt: Callable[[], T], temporary: type[Exception] = OSError) -> T:
    """Return `attempt()`, repeated after temporary errors; raise the last error."""
    for pause in PAUSES:
        try:
            return attempt()
        except PERMANENT:
            raise
        except temporary:
            time.sleep(pause * random.uniform(0.5, 1.5))
    return attempt()


def _session() -> requests.Session:
    """The session of this thread; a forked process must not share connections with its parent."""
    if getattr(_local, "process", None) != os.getpid():
        retry = _Retry(
            RETRIES,
            status_forcelist=BUSY,
            backoff_factor=BACKOFF,
            backoff_max=BACKOFF_MAX,
            backoff_jitter=BACKOFF,
            raise_on_status=False,
        )
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter(max_retries=retry))
        session.headers["Accept-Encoding"] = "identity"  # offsets in a compressed response would differ
        _local.session, _local.process = session, os.getpid()
    return _local.session


def _response(url: str, headers: dict[str, str]) -> requests.Response:
    """The response to a request; its content is not read yet."""
    response = _session().get(url, headers=headers, timeout=TIMEOUT, stream=True)
    if response.status_code in (200, 206, 416):
        return response
    response.close()
    problem = f"{url}: the server answers {response.status_code} {response.reason}"
    if response.status_code in (404, 410):
        raise FileNotFoundError(problem)
    raise OSError(problem) if response.status_code in BUSY else PermissionError(problem)


def _get(url: str, headers: dict[str, str], limit: int) -> bytes:
    """The content of a response of at most `limit` bytes; b"" for a range beyond the end of the file."""
    with _response(url, headers) as response:
        if response.status_code == 416:
            return b""
        if response.status_code == 200 and "Range" in headers:
            raise UserError(f"{url}: the server sends whole files only (no range requests): download the files first.")
        try:
            return _content(url, response, limit)
        except (requests.RequestException, HTTPError) as error:
            raise _EndedEarly(f"{url}: the connection ended early ({error})") from error


def _content(url: str, response: requests.Response, limit: int) -> bytes:
    """The body of a response; `OSError` if it is too large or too slow, so that none is read without end."""
    began, parts, size = time.monotonic(), [], 0
    while part := response.raw.read1(PART, decode_content=True):
        parts.append(part)
        size, seconds = size + len(part), time.monotonic() - began
        if size > limit:
            raise OSError(f"{url}: the server sends more than the limit of {limit:,} bytes: download the file")
        if seconds > MAX_SECONDS or (seconds > PATIENCE and size < seconds * MIN_RATE):
            raise OSError(f"{url}: the server sends {size / seconds:,.0f} bytes per second, too slow to wait for")
    return b"".join(parts)


def _http_stamp(url: str) -> tuple[int, str]:
    # Request the first byte, because signed URLs and some servers reject HEAD.
    with _response(url, {"Range": "bytes=0-0"}) as response:
        headers = response.headers
    total = headers.get("Content-Range", "").rpartition("/")[2]
    size = int(total if total.isdigit() else headers.get("Content-Length", "0"))
    return size, _short(headers.get("ETag", "") or headers.get("Last-Modified", ""))


@functools.lru_cache(16)
def _filesystem(scheme: str, process: int):
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        extra = f": {install_hint(EXTRAS[scheme])}" if scheme in EXTRAS else ""
        raise UserError(f"{scheme}:// cannot be read here ({error}){extra}.") from None


def _filesystem_of(url: str):
    return _filesystem(url.partition("://")[0], os.getpid())
