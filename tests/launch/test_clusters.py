"""launch/slurm.sbatch, tpu_vm.sh and gke.sh: what they would run, and what they do with exit codes."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.scripts import run
from tests.support.paths import ROOT

TRAIN = ("--config=a.py", "--workdir=/shared/c", "--config.duration=5 steps")


def planned(out: str) -> list[str]:
    """The words of the first command of a dry run."""
    return shlex.split(out.split("\nwould ")[0].removeprefix("would run:"))


def fake(folder: Path, name: str, program: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{program}\n")
    (folder / name).chmod(0o755)


def test_slurm_dry_run():
    words = planned(run("slurm.sbatch", "--dry-run", *TRAIN, SLURM_CPUS_PER_TASK="8")[1])
    assert words[:4] == ["srun", "--kill-on-bad-exit=1", "--label", "--cpus-per-task=8"]
    assert words[4:] == [".venv/bin/python", "-m", "rankclip_jax.train", *TRAIN]


def test_slurm_container():
    words = planned(run("slurm.sbatch", "--dry-run", *TRAIN, CONTAINER="image:1")[1])
    assert "--container-image=image:1" in words and "python3" in words


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (75, True), (137, False)])
def test_slurm_requeues_after_75_alone(tmp_path, code, requeued):
    fake(tmp_path, "srun", f"exit {code}")
    fake(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/called')
    found, _, err = run("slurm.sbatch", *TRAIN, SLURM_JOB_ID="7", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert found == code, err
    called = tmp_path / "called"
    assert (called.read_text() if called.exists() else "") == ("requeue 7\n" if requeued else "")


def test_slurm_asks_for_one_task_for_each_gpu_and_for_a_signal():
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "TERM@120" and "requeue" in options and options["open-mode"] == "append"


def tpu(*arguments: str) -> list[str]:
    code, out, err = run("tpu_vm.sh", "--zone=z", "--dry-run", *arguments)
    assert code == 0, err
    return planned(out)


QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]


def test_tpu_create():
    assert tpu("--name=n", "create") == [
        *QUEUED, "create", "n", "--node-id=n", "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite", "--zone=z",
    ]  # fmt: skip
    words = tpu("--name=n", "--slices=4", "--spot", "--type=v6e-16", "--runtime=v2-alpha-tpuv6e", "create")
    assert {"--node-count=4", "--node-prefix=n", "--spot", "--accelerator-type=v6e-16"} <= set(words)
    assert "--node-id=n" not in words


def test_tpu_train_runs_on_all_workers_under_supervision_with_quoted_arguments():
    words = tpu("--name=n", "train", *TRAIN)
    assert words[:7] == [*QUEUED, "ssh", "n", "--worker=all"] and "--node=all" in words
    (command,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    parts = shlex.split(command)
    begin = parts.index("launch/supervise.sh")
    assert parts[begin + 1 : begin + 7] == [".venv/bin/python", "-m", "rankclip_jax.train", *TRAIN]


@pytest.mark.parametrize("action", ["setup", "stop", "log"])
def test_tpu_commands_are_valid_bash(action):
    words = tpu("--repo=https://host/a repository", action)
    (command,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0


def test_tpu_delete():
    assert tpu("--name=n", "delete") == [*QUEUED, "delete", "n", "--force", "--zone=z"]


GKE = ("--cluster=c", "--project=p", "--location=l", "--image=i")


def test_gke():
    words = planned(run("gke.sh", "--dry-run", *GKE, "--slices=2", *TRAIN)[1])
    assert words[:3] == ["gcluster", "job", "submit"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--restart-on-exit-codes"] == "75" and options["--grace-period"] == "2m"
    assert options["--num-slices"] == "2" and options["--compute-type"] == "v6e-16"
    assert shlex.split(options["--command"]) == ["python3", "-m", "rankclip_jax.train", *TRAIN]


def test_gke_gpus_have_nodes_and_no_slices():
    words = planned(run("gke.sh", "--dry-run", *GKE, "--nodes=2", "--type=a3-highgpu-8g", *TRAIN)[1])
    assert words[words.index("--num-nodes") + 1] == "2" and "--num-slices" not in words


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("gke.sh", TRAIN),
        ("gke.sh", (*GKE, f"--name={'n' * 29}", *TRAIN)),
        ("gke.sh", GKE),
        ("slurm.sbatch", ()),
        ("tpu_vm.sh", ("--zone=z",)),
        ("tpu_vm.sh", ("create", "--dry-run")),
        ("tpu_vm.sh", ("--zone=z", "--dry-run", "train")),
        ("tpu_vm.sh", ("--zone=z", "--dry-run", "dance")),
        ("tpu_vm.sh", ("--zone=z", "--dry-run", "--slices=0", "create")),
    ],
)
def test_mistakes_are_one_line(script, arguments):
    code, _, err = run(script, *arguments)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck of requirements-dev.txt is not installed")
    scripts = [*map(str, (ROOT / "launch").glob("*.sh")), str(ROOT / "launch" / "slurm.sbatch")]
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
