"""Progress bars of loops over data, shown by the main process only."""

from collections.abc import Collection
from typing import TypeVar

from tqdm import tqdm

from rankclip_jax.parallel import processes
from rankclip_jax.terminal.show import printable

T = TypeVar("T")


def progress(items: Collection[T], title: str, unit: str = "pair") -> "tqdm[T]":
    """`items` with a progress bar, which the main process shows on a terminal after 2 seconds."""
    hidden = None if processes.is_main() else True  # None: hidden unless the output is a terminal
    return tqdm(items, desc=printable(title), unit=unit, delay=2, leave=False, disable=hidden)
