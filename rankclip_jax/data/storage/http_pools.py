"""HTTP connections whose answers must begin in time.

The timeout of a socket is a limit for each part that arrives: a server that sends its headers byte by byte never
exceeds it. Here a timer closes the connection.
"""

import http.client
import socket
import threading
from contextlib import suppress

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection

HEADER_SECONDS = 60.0


class SlowHeadersError(OSError):
    """The headers of an answer did not arrive within `HEADER_SECONDS`."""


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self._socket, self._is_late = sock, False

    def begin(self) -> None:
        timer = threading.Timer(HEADER_SECONDS, self._end)
        timer.daemon = True
        timer.start()
        try:
            super().begin()
        except Exception:
            if not self._is_late:
                raise
        finally:
            timer.cancel()
        if self._is_late:  # the headers that had arrived may look complete
            raise SlowHeadersError(f"the headers take more than {HEADER_SECONDS:g} s")

    def _end(self) -> None:
        self._is_late = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Adapter(HTTPAdapter):
    """An adapter of `requests` with these connections."""

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class PatientRetry(Retry):
    """Repeats requests, but not those whose headers were too slow."""

    def increment(self, method=None, url=None, response=None, error=None, *args, **kwargs) -> Retry:
        if error is not None and any(isinstance(cause, SlowHeadersError) for cause in error.args):
            raise error
        return super().increment(method, url, response, error, *args, **kwargs)
