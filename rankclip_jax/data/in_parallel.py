"""Work on many records in threads, in their order and with a progress bar."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from rankclip_jax.parallel import processes
from rankclip_jax.terminal.show import printable

T = TypeVar("T")
CHUNK = 64  # pairs that a thread takes at a time
READERS = 16  # threads for reading captions: a bucket answers many requests at a time


def in_parallel(work: Callable[[Sequence[int]], T], indices: Sequence[int], threads: int, title: str) -> Iterator[T]:
    """Yield `work(chunk)` for consecutive chunks of `indices`, in their order.

    At most 4 results per thread wait in memory, so `indices` may be a range of any length.
    """
    hidden = None if processes.is_main() else True  # None: hidden unless the output is a terminal
    bar = tqdm(total=len(indices), desc=printable(title), unit="pair", leave=False, delay=1, disable=hidden)
    size = max(1, min(CHUNK, -(-len(indices) // threads)))
    with ThreadPoolExecutor(threads) as pool, bar:
        waiting: deque[tuple[int, Future]] = deque()
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            waiting.append((len(chunk), pool.submit(work, chunk)))
            if len(waiting) > 4 * threads:
                yield _finished(*waiting.popleft(), bar)
        for job in waiting:
            yield _finished(*job, bar)


def _finished(size: int, future: Future, bar: tqdm) -> Any:
    result = future.result()
    bar.update(size)
    return result
