"""A web server for the files of a folder that answers range requests, and that fails on demand."""

import contextlib
import http.server
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from rankclip_jax.data.storage import remote_files


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of `folder`.

    Attributes:
      refuse_every: N: requests for one of N ranges are answered by 503; 0 for none.
      break_every: N: answers for one of N ranges end in the middle; 0 for none.
      failures: how often `refuse_every` and `break_every` fail for each range. Which requests fail depends on the
        ranges only, not on the order of requests from several threads.
      limited_until: until this `time.monotonic()` all requests are answered by 429 with "Retry-After: 1".
      ignores_ranges: whether whole files are sent for every request.
      slow_headers: whether headers are sent byte by byte, without end.
      endless: pause in seconds between parts of an answer that never ends; None for usual answers.
      requests: (path, range) of every request.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.refuse_every = self.break_every = 0
        self.failures = 2
        self.limited_until = 0.0
        self.ignores_ranges = False
        self.endless = None
        self.slow_headers = False
        self.requests = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it, each answer takes 40 ms
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        with server.lock:
            server.requests.append((self.path, asked))
            part = zlib.crc32(f"{self.path} {asked}".encode())
            fails = server.requests.count((self.path, asked)) <= server.failures
        file = server.folder / self.path.split("?")[0].lstrip("/")
        if server.slow_headers:
            self._send_headers_without_end()
        elif server.endless is not None:
            self._answer_without_end()
        elif time.monotonic() < server.limited_until:
            self._answer(429, b"slow down", {"Retry-After": "1"})
        elif fails and server.refuse_every and part % server.refuse_every == 0:
            self._answer(503, b"busy")
        elif not file.is_file():
            self._answer(404, b"no such file")
        else:
            data = file.read_bytes()
            status, begin, end = (200, 0, len(data)) if server.ignores_ranges else _range(asked, len(data))
            headers = {"ETag": f'"{os.stat(file).st_mtime_ns}"'}
            if status == 206:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            broken = fails and server.break_every and part % server.break_every == 0
            self._answer(status, data[begin:end], headers, broken)

    def _answer(self, status, body, headers=(), broken=False):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = self.close_connection or bool(broken)

    def _send_headers_without_end(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)

    def _answer_without_end(self):
        self.send_response(206 if self.headers.get("Range") else 200)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client stops reading
            while True:
                self.wfile.write(b"x" * (1 if self.server.endless else 65536))
                time.sleep(self.server.endless)

    def log_message(self, *args):
        pass


def _range(asked: str | None, size: int) -> tuple[int, int, int]:
    """Status, first byte to send, and end of the bytes to send."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if not found:
        return 200, 0, size
    begin, end = int(found[1]), min(size, int(found[2] or size - 1) + 1)
    return (206, begin, end) if begin < size else (416, 0, 0)


def retry_quickly(monkeypatch) -> None:
    """Make the pauses between attempts short, in new sessions too."""
    monkeypatch.setattr(remote_files, "PAUSES", (0.002,) * len(remote_files.PAUSES))
    monkeypatch.setattr(remote_files, "BACKOFF", 0.002)
    monkeypatch.setattr(remote_files, "BACKOFF_MAX", 0.01)
    monkeypatch.setattr(remote_files, "_local", threading.local())


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder on a free port of this machine."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
