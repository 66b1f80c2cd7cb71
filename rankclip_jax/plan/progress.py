"""The elapsed time of a compilation, which may take minutes."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PLAIN_SECONDS = 30.0  # between two lines if the output is not a terminal


@contextmanager
def elapsed(what: str, stream=None) -> Iterator[None]:
    """While the body runs, show on `stream` (stderr) what is done and for how long."""
    stream = stream or sys.stderr
    done, began = threading.Event(), time.monotonic()
    is_terminal = stream.isatty()

    def tell() -> None:
        while not done.wait(1.0 if is_terminal else PLAIN_SECONDS):
            line = f"{what}: {time.monotonic() - began:.0f} s"
            print(f"\r{line}" if is_terminal else line, end="" if is_terminal else "\n", file=stream, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if is_terminal:
            print("\r\x1b[K", end="", file=stream, flush=True)
