"""Limits of a fuzz: the time of each input, and the memory of the process."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS, MEGABYTES = 60, 2048
# What an input may add where earlier tests of the same process took more than MEGABYTES.
MORE_MEGABYTES = 512


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class Limits:
    """Measures each input: ``with limits.of(number): ...``; an input above a limit fails."""

    def __init__(self):
        self.before, self.slowest, self.inputs = peak_megabytes(), 0.0, 0

    @contextmanager
    def of(self, what: object) -> Iterator[None]:
        """Time what is in the block. `what` names the input in an error."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds, peak = time.monotonic() - began, peak_megabytes()
            self.slowest, self.inputs = max(self.slowest, seconds), self.inputs + 1
            assert seconds < SECONDS, f"{what}: {seconds:.0f} s"
            assert peak <= max(self.before + MORE_MEGABYTES, MEGABYTES), f"{what}: {peak} MB"

    def show(self) -> None:
        """Print the figures (pytest shows them with -rP)."""
        print(f"{self.inputs:,} inputs, slowest {self.slowest:.2f} s, peak {peak_megabytes():,} MB")
