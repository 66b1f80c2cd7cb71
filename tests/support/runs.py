"""Training runs by the command line, small enough for tests, and what they leave behind."""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from rankclip_jax.checkpoints import files
from rankclip_jax.run_folder import read_metrics
from tests.support import commands, processes

COMMAND = ("-m", "rankclip_jax.train", "--config=configs/emoji.py:mu")
SMALL = (
    "--config.batch_size=32",
    "--config.data.train_limit=256",
    "--config.data.augment=flip",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.log.diagnostics=False",  # their tracing and compilation take as long as the step's
    "--config.eval.report_split=val",  # the smallest split: the map of the report is most of its cost
    "--config.eval.metrics=retrieval",
)
# Metrics that are about the machine and the moment.
RATES = (
    "time",
    "samples_per_second",
    "seconds_per_step",
    "data_wait_share",
    "eta_seconds",
    "elapsed_seconds",
    "peak_process_bytes",
)


def start(workdir: Path, *flags: str, devices: int = 1, env: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start training; `flags` come after those of `SMALL`."""
    return processes.start_python(*COMMAND, f"--workdir={workdir}", *SMALL, *flags, devices=devices, env=env)


def train(workdir: Path, *flags: str, seconds: float = 120, **options) -> tuple[int, str, str]:
    """Train to the end; return (exit code, stdout, stderr)."""
    return processes.finish(start(workdir, *flags, **options), seconds)


def train_here(capsys, workdir: Path, *flags: str) -> tuple[int, str, str]:
    """The same in this process, for runs that end before anything is compiled."""
    return commands.run_module(capsys, COMMAND[1], COMMAND[2], f"--workdir={workdir}", *SMALL, *flags)


def kill_when(process: subprocess.Popen, is_time, seconds: float = 120) -> None:
    """SIGKILL as soon as `is_time()`; an end of its own before that is a failure."""
    deadline = time.monotonic() + seconds
    try:
        while not is_time():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it never came so far"
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()


def last_step(workdir: Path) -> int:
    """The last training step with a line in `metrics.jsonl`, which may just be written to."""
    steps = [line["step"] for line in read_metrics(str(workdir)) if "train/loss" in line]
    return max(steps, default=0)


def history(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` without what is about the machine and the moment; each must be sound."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.removeprefix("train/") not in RATES} for line in lines]


def checkpoint_steps(workdir: Path) -> list[int]:
    return files.steps(files.absolute(str(workdir / "checkpoints")))[::-1]


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, optimizer state included, by its path."""
    folder, handler = workdir / "checkpoints" / str(step) / "state", ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
    tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
