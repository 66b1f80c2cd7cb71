"""Several processes: connect them, wait for each other, and choose the one that prints and writes.

Processes are described by three environment variables, or found by JAX in the environment of a cluster (TPU, SLURM,
GKE, Open MPI). A single machine needs none of this.
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
from rankclip_jax.parallel import clusters
from rankclip_jax.terminal.show import short

COORDINATOR = "RANKCLIP_COORDINATOR"  # host:port of process 0
PROCESS_COUNT = "RANKCLIP_PROCESS_COUNT"
PROCESS_ID = "RANKCLIP_PROCESS_ID"
INIT_TIMEOUT = "RANKCLIP_INIT_TIMEOUT"  # seconds to wait for all processes, 300 if unset

HEARTBEAT_SECONDS = 12  # time to detect a dead machine; JAX's default is 100
LONG_SECONDS = 24 * 3600  # limit of a wait during which other processes may index their data
SHUTDOWN_SECONDS = 60  # longest wait for other processes at a normal end
AUTO, ENV, SINGLE = MODES = ("auto", "env", "single")

_barrier_counter = itertools.count()
_joined: list[tuple[int, int]] = []  # (index, count), set by `initialize`; reading it starts no JAX backend


class Processes(NamedTuple):
    """The number of processes, the index of this one, and the address of process 0."""

    coordinator: str  # host:port
    count: int
    index: int
    init_timeout: int  # seconds


def initialize(mode: str = AUTO, env: Mapping[str, str] = os.environ) -> None:
    """Connect to the other processes, if there are any; call it before any other use of JAX.

    Args:
      mode: "auto": by the environment variables, otherwise as JAX finds them; "env": by the variables only; "single":
        there is no other process.
      env: the environment variables.

    Raises:
      UserError: only some of the variables are set, or a value is invalid; the connection fails; or the environment
        describes several processes, but this one would be alone. Each would train on its own in the same folder.
    """
    if mode not in MODES:
        raise UserError(f"config.processes={mode!r} must be one of {', '.join(MODES)}")
    if jax.distributed.is_initialized():
        return
    # Python handles the signals, see `training.guard`. JAX's service for them would take SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    given = read_environment(env) if mode != SINGLE else None
    if given is not None:
        _join_given(given)
    elif mode == AUTO and (cluster := clusters.cluster(env)):
        _join_cluster(cluster, _init_timeout(env))
    elif sign := clusters.alone(env):
        raise UserError(
            f"{sign}, but this one would train alone (config.processes={mode}). Set {COORDINATOR}, {PROCESS_COUNT} and "
            f"{PROCESS_ID} in each process, or unset that variable if only this process trains"
        )


def _join_given(processes: Processes) -> None:
    print(
        f"process {processes.index} of {processes.count}, coordinator {processes.coordinator}: "
        f"waiting up to {processes.init_timeout} s for the others ...",
        file=sys.stderr,
        flush=True,
    )
    own = {
        "coordinator_address": processes.coordinator,
        "num_processes": processes.count,
        "process_id": processes.index,
        "cluster_detection_method": "deactivate",
    }
    _join(own, processes.init_timeout, f"process {processes.index} of {processes.count}", processes.coordinator)
    _joined.append((processes.index, processes.count))


def _join_cluster(name: str, timeout: int) -> None:
    """Connect to the processes that JAX finds in a cluster."""
    print(f"{name} found: waiting up to {timeout} s for the other processes ...", file=sys.stderr, flush=True)
    _join({}, timeout, "this process", f"the others of {name}")
    from jax._src.distributed import global_state  # the public functions would start the backend

    _joined.append((global_state.process_id, global_state.num_processes))


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
    return Processes(given[COORDINATOR], count, index, _init_timeout(env))


def _init_timeout(env: Mapping[str, str]) -> int:
    return _integer({INIT_TIMEOUT: env.get(INIT_TIMEOUT) or "300"}, INIT_TIMEOUT)


def _integer(values: Mapping[str, str], name: str) -> int:
    try:
        return int(values[name])
    except ValueError:
        raise UserError(f"{name}={values[name]!r} is not a whole number") from None


def _join(own: Mapping, timeout: int, who: str, where: str) -> None:
    # If a process is missing, JAX aborts with a C++ stack trace. This timer ends the process earlier, with one line.
    timer = threading.Timer(timeout, _give_up, [timeout, who, where])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **own,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            initialization_timeout=timeout + 60,
        )
    except Exception as error:  # of the connection, or of the service that JAX asks about a cluster
        raise UserError(f"{who} cannot join {where}: {short(str(error).splitlines()[0])}") from error
    finally:
        timer.cancel()


def _give_up(timeout: int, who: str, where: str) -> None:
    print(
        f"error: {who} waited {timeout} s at {where}, but some processes did not connect; check that each runs, has "
        f"its own {PROCESS_ID} and reaches that address ({INIT_TIMEOUT}=SECONDS sets the time limit)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def index_and_count() -> tuple[int, int]:
    """Return (index of this process, number of processes)."""
    if _joined:
        return _joined[0]
    if jax.distributed.is_initialized():  # by a launcher
        return jax.process_index(), jax.process_count()
    return 0, 1


def is_multi_process() -> bool:
    """Return whether there are several processes."""
    return index_and_count()[1] > 1


def is_main() -> bool:
    """Return whether this is process 0, which alone prints and writes shared files."""
    return index_and_count()[0] == 0


def process_label() -> str:
    """Return ``'[process 1 of 4] '`` if there are several processes, else an empty string."""
    index, count = index_and_count()
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


def barrier(name: str, timeout: int = 300) -> None:
    """Wait until every process has called this with the same name; a single process does not wait.

    After `timeout` seconds the runtime raises an error with the name and the missing processes.
    """
    if is_multi_process():
        from orbax.checkpoint import multihost  # its barrier needs no device and has a time limit

        # The counter makes names unique, as is required. All processes pass barriers in the same order.
        multihost.sync_global_processes(f"rankclip:{name}:{next(_barrier_counter)}", timeout=timeout)
