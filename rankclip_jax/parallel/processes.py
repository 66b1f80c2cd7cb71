"""Several processes: how they find each other, wait for each other, and who speaks for all.

A plain box needs none of this: without the three environment variables below there is one process.
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

HEARTBEAT_SECONDS = 30  # a dead machine is noticed after this; jax's default is 100
LONG_SECONDS = 24 * 3600  # while others may make an index of their data
SHUTDOWN_SECONDS = 60  # the longest wait for the others at a normal end


_meetings = itertools.count()
_joined: list["Processes"] = []  # what `initialize` joined, so that asking starts no backend


class Processes(NamedTuple):
    """How many processes there are, which one this is, and where process 0 listens."""

    coordinator: str
    count: int
    index: int
    init_timeout: int  # seconds


def initialize(env: Mapping[str, str] = os.environ) -> None:
    """Join the other processes, if the environment names them; call before any other use of jax.

    Raises:
      UserError: some but not all of the variables are set, or one makes no sense.
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
    """Return the processes that the environment describes, None for a single one."""
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
    # jax answers a missing peer with SIGABRT and a C++ stack; this timer comes first, with a sentence.
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
        f"{processes.coordinator} and not all processes came; check that each runs, has its own "
        f"{PROCESS_ID} and reaches that address (longer: {INIT_TIMEOUT}=SECONDS)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _place() -> tuple[int, int]:
    """Return (index of this process, number of processes)."""
    if _joined:
        return _joined[0].index, _joined[0].count
    if jax.distributed.is_initialized():  # by a launcher of its own
        return jax.process_index(), jax.process_count()
    return 0, 1


def is_multi_process() -> bool:
    """Whether this process has joined others."""
    return _place()[1] > 1


def is_main() -> bool:
    """Whether this is the one process that prints, and writes what is written once."""
    return _place()[0] == 0


def process_label() -> str:
    """``'[process 1 of 4] '`` among several processes, else an empty string."""
    index, count = _place()
    return f"[process {index} of {count}] " if count > 1 else ""


def all_agree(yes: bool) -> bool:
    """Return whether every process says yes; all of them call this together."""
    if not is_multi_process():
        return yes
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.int32(yes)).all())


def union(numbers: Iterable[int], size: int) -> set[int]:
    """Return the numbers, each below `size`, that any process has; all of them call this together."""
    if not is_multi_process():
        return set(numbers)
    from jax.experimental import multihost_utils

    mask = np.zeros(size, bool)
    mask[list(numbers)] = True
    return set(np.flatnonzero(multihost_utils.process_allgather(mask).any(axis=0)).tolist())


def check_same(what: str, digest: str, timeout: int = LONG_SECONDS) -> None:
    """Refuse to go on if processes have different ones of something; all of them call this together.

    Args:
      what: what it is, for the message.
      digest: hex digits that tell it, as many in every process.
      timeout: seconds to wait for the others, which may read a lot first. One that ends is noticed much sooner.

    Raises:
      UserError: in every process, with the number of one that differs from process 0.
    """
    if not is_multi_process():
        return
    barrier(f"{what} read", timeout)
    from jax.experimental import multihost_utils

    digests = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise UserError(
            f"process {different[0]} has other {what} than process 0: make them the same on every machine "
            f"({len(different)} of {len(digests)} processes differ)."
        )


def barrier(name: str, timeout: int = 300) -> None:
    """Wait until every process has called this with the same name; nothing for a single process.

    Args:
      name: what is waited for, shown in the error.
      timeout: seconds; then the runtime raises an error that names the processes that did not come.
    """
    if is_multi_process():
        from orbax.checkpoint import multihost  # its barrier needs no device and has a time limit

        # A name may meet once only; all processes count their meetings alike.
        multihost.sync_global_processes(f"rankclip:{name}:{next(_meetings)}", timeout=timeout)
