"""When JAX is asked for other processes, and when a process that would be alone is stopped."""

import pytest
from jax._src import cloud_tpu_init

from rankclip_jax.errors import UserError
from rankclip_jax.parallel import clusters, processes

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "node[1-2]"}  # a shell, outside srun
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    "env, name",
    [
        ({}, ""),
        (STEP, "SLURM"),
        (STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, ""),
        (SALLOC, ""),
        (OPEN_MPI, "Open MPI"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, ""),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),  # a notebook in a cluster
    ],
)
def test_jax_is_asked_only_where_there_is_a_cluster(env, name):
    assert clusters.cluster(env) == name


def test_kubernetes_is_asked_if_its_library_is_installed(monkeypatch):
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name == "kubernetes" or None)
    assert clusters.cluster(POD) == "Kubernetes"
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    assert clusters.cluster(POD) == ""


def test_tpus_are_asked_unless_another_platform_is_wanted(monkeypatch):
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    assert clusters.cluster({}) == clusters.cluster({"JAX_PLATFORMS": "tpu,cpu"}) == "TPU"
    assert clusters.cluster({"JAX_PLATFORMS": "cpu"}) == ""


@pytest.mark.parametrize(
    "mode, env, message",
    [
        ("single", STEP, "SLURM_STEP_NUM_TASKS=2: SLURM started several processes"),
        ("env", OPEN_MPI, "OMPI_COMM_WORLD_SIZE=2: Open MPI started several processes"),
        ("auto", {"PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI_SIZE=4: MPICH started several processes"),
        ("auto", {"WORLD_SIZE": "8", "RANK": "7"}, "WORLD_SIZE=8: torchrun started several processes"),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES names 2 machines"),
        ("auto", POD, "JOB_COMPLETION_INDEX=1: this is one of several pods"),
        ("many", {}, "config.processes='many' must be one of auto, env, single"),
    ],
)
def test_one_of_several_processes_does_not_train_alone(mode, env, message):
    with pytest.raises(UserError, match=message):
        processes.initialize(mode, env)


@pytest.mark.parametrize(
    "env",
    [
        SALLOC,
        {"WORLD_SIZE": "8"},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
        {"OMPI_COMM_WORLD_SIZE": "two", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_a_process_that_is_alone_does_not_wait(env):
    for mode in processes.MODES:
        processes.initialize(mode, env)
        assert not processes.is_multi_process()
