"""Several processes: connect them, wait for each other, compare values, and choose the one that prints and writes.

A single machine needs none of this: without the first three environment variables below there is one process.
"""

import itertools
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from rankclip_jax.errors import UserError

COORDINATOR = "RANKCLIP_COORDINATOR"  # host:port of process 0
PROCESS_COUNT = "RANKCLIP_PROCESS_COUNT"
PROCESS_ID = "RANKCLIP_PROCESS_ID"
INIT_TIMEOUT = "RANKCLIP_INIT_TIMEOUT"  # seconds to wait for all processes, 300 if unset

HEARTBEAT_SECONDS = 30  # time to detect a dead machine; JAX's default is 100
LONG_SECONDS = 24 * 3600  # limit of a wait during which other processes may index their data
SHUTDOWN_SECONDS = 60  # longest wait for other processes at a normal end

_barrier_counter = itertools.count()
_joined: list["Processes"] = []  # set by `initialize`; reading it starts no JAX backend


class Processes(NamedTuple):
    """The number of processes, the index of this one, and the address of process 0."""

    coordinator: str  # host:port
    count: int
    index: int
    init_timeout: int  # seconds


def initialize(env: Mapping[str, str] = os.environ) -> None:
    """Connect to the other processes if the environment variables are set; call it before any other use of JAX.

    Raises:
      UserError: only some of the variables are set, a value is invalid, or the connection fails.
    """
    processes = read_environment(env)
    if processes is None or jax.distributed.is_initialized():
        return
    print(
        f"process {processes.index} of {processes.count}, coordinator {processes.coordinator}: "
        f"waiting up to {processes.init_timeout} s for the others ...",
        file=sys.stderr,
        flush=True,
    )
    _join(processes)
    _joined.append(processes)


def read_environment(env: Mapping[str, str]) -> Processes | None:
    """Return the processes described by environment variables; None for a single process."""
    given = {name: env[name] for name in (COORDINATOR, PROCESS_COUNT, PROCESS_ID) if env.get(name)}
    if not given:
        return None
    for name in (COORDINATOR, PROCESS_COUNT, PROCESS_ID):
        if name not in given:
            raise UserError(f"{', '.join(given)} set but {name} is not; set all three or none")
    host, _, port = given[COORDINATOR].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{COORDINATOR}={given[COORDINATOR]!r} is not HOST:PORT, such as 10.0.0.1:12345")
    count, index = _integer(given, PROCESS_COUNT), _integer(given, PROCESS_ID)
    if not 0 <= index < count:
        raise UserError(f"{PROCESS_ID}={index} is outside 0..{count - 1} ({PROCESS_COUNT}={count})")
    timeout = _integer({INIT_TIMEOUT: env.get(INIT_TIMEOUT) or "300"}, INIT_TIMEOUT)
    return Processes(given[COORDINATOR], count, index, timeout)


def _integer(values: Mapping[str, str], name: str) -> int:
    try:
        return int(values[name])
    except ValueError:
        raise UserError(f"{name}={values[name]!r} is not a whole number") from None


def _join(processes: Processes) -> None:
    # If a process is missing, JAX aborts with a C++ stack trace. This timer ends the process earlier, with one line.
    timer = threading.Timer(processes.init_timeout, _give_up, [processes])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            processes.coordinator,
            num_processes=processes.count,
            process_id=processes.index,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            initialization_timeout=processes.init_timeout + 60,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {processes.index} cannot join {processes.coordinator}: {reason}") from error
    finally:
        timer.cancel()


def _give_up(processes: Processes) -> None:
    print(
        f"error: process {processes.index} of {processes.count} waited {processes.init_timeout} s at "
        f"{processes.coordinator}, but some processes did not connect; check that each runs, has its own "
        f"{PROCESS_ID} and reaches that address ({INIT_TIMEOUT}=SECONDS sets the time limit)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _index_and_count() -> tuple[int, int]:
    """Return (index of this process, number of processes)."""
    if _joined:
        return _joined[0].index, _joined[0].count
    if jax.distributed.is_initialized():  # by a launcher
        return jax.process_index(), jax.process_count()
    return 0, 1


def is_multi_process() -> bool:
    """Return whether there are several processes."""
    return _index_and_count()[1] > 1


def is_main() -> bool:
    """Return whether this is process 0, which alone prints and writes shared files."""
    return _index_and_count()[0] == 0


def process_label() -> str:
    """Return ``'[process 1 of 4] '`` if there are several processes, else an empty string."""
    index, count = _index_and_count()
    return f"[process {index} of {count}] " if count > 1 else ""


def all_agree(yes: bool) -> bool:
    """Return whether `yes` is true in every process. All processes must call this together."""
    if not is_multi_process():
        return yes
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.int32(yes)).all())


def union(indices: Iterable[int]) -> set[int]:
    """Return the union over all processes of their non-negative `indices`. All processes must call this together."""
    own = np.array(sorted(indices), np.int64)
    if not is_multi_process():
        return set(own.tolist())
    from jax.experimental import multihost_utils

    # All processes gather arrays of one length, padded with -1; as two halves, because JAX has no 64-bit integers here.
    length = int(multihost_utils.process_allgather(np.int32(len(own))).max())
    if not length:
        return set()
    padded = np.pad(own, (0, length - len(own)), constant_values=-1).view(np.int32)
    return set(np.ascontiguousarray(multihost_utils.process_allgather(padded)).view(np.int64).ravel().tolist()) - {-1}


def check_same(what: str, digest: str, timeout: int = LONG_SECONDS) -> None:
    """Check that something is the same in every process. All processes must call this together.

    Args:
      what: its name, for the message, such as "data".
      digest: its digest in hexadecimal digits, of the same length in every process.
      timeout: seconds to wait for other processes, which may read much data first. Dead processes are detected sooner.

    Raises:
      UserError: in every process, if digests differ; names one process that differs from process 0.
    """
    if not is_multi_process():
        return
    barrier(f"{what} read", timeout)
    from jax.experimental import multihost_utils

    digests = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise UserError(
            f"process {different[0]} has other {what} than process 0: use the same {what} on every machine "
            f"({len(different)} of {len(digests)} processes differ)."
        )


def barrier(name: str, timeout: int = 300) -> None:
    """Wait until every process has called this with the same name; a single process does not wait.

    After `timeout` seconds the runtime raises an error with the name and the missing processes.
    """
    if is_multi_process():
        from orbax.checkpoint import multihost  # its barrier needs no device and has a time limit

        # The counter makes names unique, as is required. All processes pass barriers in the same order.
        multihost.sync_global_processes(f"rankclip:{name}:{next(_barrier_counter)}", timeout=timeout)
