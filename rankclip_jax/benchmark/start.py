"""From the command to the end of the first training step, by phase, without and with compiled programs on disk.

    python -m rankclip_jax.benchmark start --config=configs/emoji.py:mu [--json=FILE]

Each run is a process of its own. The case "cold" finds no compiled programs; the case "warm" finds those of an earlier
run. Both find the files of Python and of the data in the system's file cache after the first turn. A phase ends when

    imports      Python and all modules of the training command are loaded
    data         the data are read, and the config is checked
    state        parameters and the optimizer's state are on the devices
    first_batch  a batch is on the devices
    first_step   the first step is done: tracing, compilation, computation

The columns of the phases are those of the last run, in seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.compilation_cache import FOLDER_VARIABLE, MIN_SECONDS, MIN_SECONDS_VARIABLE
from rankclip_jax.config.command_line import config_spec
from rankclip_jax.errors import UserError

COLD, WARM = "cold", "warm"
PHASES = ("imports", "data", "state", "first_batch", "first_step")


def define_flags() -> None:
    cli.define_config()


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    command = [f"--config={config_spec(sys.argv)}", *config_keys(sys.argv)]
    with tempfile.TemporaryDirectory() as folder:
        shared = {"model": chosen.config.model.name, "batch": chosen.config.batch_size, "folder": folder}
        yield [{"programs": name, "command": command, **shared} for name in (COLD, WARM)]


def config_keys(argv: Sequence[str]) -> list[str]:
    """Return the arguments that set keys of the config: ``--config.KEY=VALUE``, or ``--config.KEY VALUE``."""
    found = []
    for i, arg in enumerate(argv):
        if arg.startswith("--config."):
            found += [arg] if "=" in arg else argv[i : i + 2]
    return found


def build(case: Row) -> Case:
    """A run starts the command and waits until its first step is done; its phases are the columns of the case."""
    columns = {key: case[key] for key in ("programs", "model", "batch")}

    def run() -> None:
        columns.update(phases(case["command"], Path(case["folder"]), case["programs"] == WARM))

    return Case(run, columns)


def phases(command: Sequence[str], folder: Path, keep_programs: bool) -> dict[str, float]:
    """Start the command in a new run folder; return the seconds of each phase."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        programs = folder / "programs" if keep_programs else Path(fresh) / "programs"
        env = {FOLDER_VARIABLE: str(programs), MIN_SECONDS_VARIABLE: str(MIN_SECONDS)}
        module = [sys.executable, "-m", "rankclip_jax.benchmark.first_step"]
        arguments = [f"--begin={time.monotonic()}", f"--workdir={fresh}/run", *command]
        done = subprocess.run([*module, *arguments], capture_output=True, text=True, env=os.environ | env)
    if done.returncode:
        raise UserError(f"the start failed: {(done.stderr.strip().splitlines() or ['killed'])[-1][:500]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


BENCHMARK = Benchmark(
    "from the command to the end of the first step",
    labels=("programs", *PHASES),
    about=("model", "batch"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    rounds=3,
    warm_up=1,  # fills the folder of compiled programs
    in_process=True,
)
