"""Processes of one run end together, and all of them say why.

Left to itself, a process that stops leaves the others in a collective: they end after seconds or minutes, with an error
of the network that names no cause. So the first process that stops writes its cause into the key-value store of JAX's
coordination service. A thread in every process waits for that key, prints the cause and ends its process. The same
thread writes there every few seconds what its process does, which shows who was lost and who is stuck.

If process 0 is killed, the store is gone: JAX's own client then ends the others at once, with a message of its own.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from orbax.checkpoint import multihost

from rankclip_jax.parallel import processes
from rankclip_jax.terminal.show import printable, short, warn

CAUSE = "rankclip/cause"
STATUS = "rankclip/status"
BEAT_SECONDS = 2  # between two signs of life of a process
SILENT_SECONDS = 8  # without them, process 0 warns
LAST_SECONDS = 2  # process 0 ends later than the others by this: the store ends with it
RESTART = 75  # exit code of a run that continues when it is started again (EX_TEMPFAIL of sysexits.h)

# Errors that the end of another process causes: of Gloo, NCCL, gRPC and the coordination service.
LOST = re.compile(r"Gloo|NCCL|[Cc]onnection|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|[Bb]arrier|Socket closed|ABORTED")

_threads: list[threading.Thread] = []  # at most one, set by `watch`


class Cause(NamedTuple):
    """Why a run stops: the process that stopped first, its exit code and its message of one line."""

    process: int
    code: int
    message: str


def watch(status: Callable[[], str]) -> None:
    """Start the thread; with one process there is none. `status` returns what this process does, as short text."""
    if processes.is_multi_process():
        thread = threading.Thread(target=_watch, args=[status], name="peers", daemon=True)
        thread.start()
        _threads.append(thread)


def close() -> None:
    """At a normal end, disconnect from the others, which waits for them, and end the thread."""
    if processes.is_multi_process():
        jax.distributed.shutdown()
        while _threads:
            _threads.pop().join(BEAT_SECONDS)


def _watch(status: Callable[[], str]) -> None:
    client, index, beats, silence = (
        multihost.get_jax_distributed_client(),
        processes.index_and_count()[0],
        0,
        _Silence(),
    )
    while True:
        try:
            beats += 1
            client.key_value_set(f"{STATUS}/{index}", f"{beats} {status()}", allow_overwrite=True)
            if index == 0:
                silence.look(statuses())
            cause = Cause(*json.loads(client.blocking_key_value_get(CAUSE, BEAT_SECONDS * 1000)))
        except Exception as error:
            if "DEADLINE_EXCEEDED" in str(error):  # no process has stopped yet
                continue
            return  # the connection is closed: this process ends, or process 0 has ended
        if cause.process != index:
            _end(cause)
        return


class _Silence:
    """Warns of processes without a sign of life. JAX ends the run when a process has sent no heartbeat for
    `processes.HEARTBEAT_SECONDS`; its message comes from C++ and names only a number."""

    def __init__(self):
        self._heard: dict[int, tuple[str, float]] = {}  # last status of each process, and when it was new

    def look(self, found: Mapping[int, str]) -> None:
        now = time.monotonic()
        for index, status in found.items():
            last, since = self._heard.get(index, ("", now))
            if status != last:
                self._heard[index] = (status, now)
            elif now - since > SILENT_SECONDS:
                warn(f"process {index} ({_doing(status)}) has given no sign of life for {now - since:.0f} s")
                self._heard[index] = (status, now + 10 * SILENT_SECONDS)  # not again soon


def announce(message: str, code: int) -> None:
    """Tell the other processes that this one stops; the first cause counts. With one process this does nothing."""
    if not processes.is_multi_process():
        return
    index, _ = processes.index_and_count()
    try:
        multihost.get_jax_distributed_client().key_value_set(CAUSE, json.dumps(Cause(index, code, message)))
    except Exception:  # another process was first, or process 0 is gone
        return


def leave(code: int) -> None:
    """End this process at once, process 0 a little later. JAX's exit handlers would wait for minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    if processes.is_multi_process() and processes.is_main():
        time.sleep(LAST_SECONDS)
    os._exit(code)


def is_lost(error: BaseException) -> bool:
    """Return whether `error` may be the consequence of another process's end."""
    return processes.is_multi_process() and isinstance(error, Exception) and bool(LOST.search(str(error)))


def cause_of(error: BaseException) -> str:
    """Return one line about an error for which `is_lost`, after some seconds; the thread ends this process earlier if
    another process has told its cause."""
    lost = silent()
    if not lost:
        return f"the connection to another process failed: {short(str(error).splitlines()[0])}"
    return (
        f"lost {', '.join(lost)}: killed, out of memory, or its machine is gone; see its own output and its machine. "
        "Run the same command again to continue from the newest checkpoint"
    )


def silent() -> list[str]:
    """Return "process I (what it did last)" for each process without a sign of life during two beats."""
    try:
        before = statuses()
        time.sleep(2 * BEAT_SECONDS + 0.5)
        after = statuses()
    except Exception:
        return []
    count = processes.index_and_count()[1]
    same = [index for index in range(count) if before.get(index) == after.get(index)]
    return [f"process {index} of {count} ({_doing(after.get(index, ''))})" for index in same]


def statuses() -> dict[int, str]:
    """Return the last status of each process, with its beat."""
    found = multihost.get_jax_distributed_client().key_value_dir_get(STATUS)
    return {int(key.rpartition("/")[2]): value for key, value in found}


def doing() -> list[str]:
    """Return "process I: what it does" for each process."""
    try:
        return [f"process {index}: {_doing(value)}" for index, value in sorted(statuses().items())]
    except Exception:
        return []


def _doing(status: str) -> str:
    return status.partition(" ")[2] or "nothing yet"


def _end(cause: Cause) -> None:
    print(
        f"\nerror: {processes.process_label()}process {cause.process} stopped: {printable(cause.message)}",
        file=sys.stderr,
        flush=True,
    )
    leave(cause.code)
