"""What the environment says about other processes, beside the variables RANKCLIP_*.

JAX itself finds the processes of TPU machines (also several slices), SLURM, Open MPI and Kubernetes. This module
decides whether to ask it: on a machine without a cluster JAX must not wait for one. It also notices processes that a
launcher started together and that JAX does not find: each of them would train alone.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jax._src import cloud_tpu_init


class Launcher(NamedTuple):
    """A launcher, and variables that it sets in each process it starts."""

    name: str
    count: str  # variable with the number of processes
    index: str  # variable with the index of this process


SLURM = Launcher("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
OPEN_MPI = Launcher("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
LAUNCHERS = (
    SLURM,
    OPEN_MPI,
    Launcher("MPICH", "PMI_SIZE", "PMI_RANK"),
    Launcher("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    Launcher("torchrun", "WORLD_SIZE", "RANK"),
)
TPU_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")  # names or addresses, separated by commas
POD_INDEX = "JOB_COMPLETION_INDEX"  # of Kubernetes: index of a pod in its job

# What JAX reads of SLURM; a shell of `salloc` has only a part of it.
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def cluster(env: Mapping[str, str]) -> str:
    """Return the name of the cluster whose processes JAX can find, or ""."""
    return next((name for name, is_there in CLUSTERS.items() if is_there(env)), "")


def alone(env: Mapping[str, str]) -> str:
    """Return what shows that this process is one of several, as text; "" if nothing does."""
    for launcher in LAUNCHERS:
        if launcher.index in env and _number(env, launcher.count) > 1:
            return f"{launcher.count}={env[launcher.count]}: {launcher.name} started several processes"
    for name in TPU_HOSTS:
        if len(hosts := env.get(name, "").split(",")) > 1:
            return f"{name} names {len(hosts)} machines"
    if _number(env, POD_INDEX) > 0:
        return f"{POD_INDEX}={env[POD_INDEX]}: this is one of several pods"
    return ""


def _is_slurm(env: Mapping[str, str]) -> bool:
    return all(name in env for name in SLURM_STEP) and _number(env, "SLURM_NTASKS") > 1


def _is_open_mpi(env: Mapping[str, str]) -> bool:
    return "OMPI_MCA_orte_hnp_uri" in env and _number(env, OPEN_MPI.count) > 1


def _is_tpu(env: Mapping[str, str]) -> bool:
    return cloud_tpu_init.running_in_cloud_tpu_vm and env.get("JAX_PLATFORMS", "tpu") not in ("cpu", "cuda", "gpu")


def _is_kubernetes(env: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in env and POD_INDEX in env and importlib.util.find_spec("kubernetes") is not None


CLUSTERS: dict[str, Callable[[Mapping[str, str]], bool]] = {
    "TPU": _is_tpu,
    "SLURM": _is_slurm,
    "Open MPI": _is_open_mpi,
    "Kubernetes": _is_kubernetes,
}


def _number(env: Mapping[str, str], name: str) -> int:
    value = env.get(name, "")
    return int(value) if value.isdecimal() else 0
