"""Say what hardware, versions, processes, devices and storage a run would have here, and how fast they are.

    python -m rankclip_jax.doctor [--expect=gpu|tpu|cpu] [--workdir=DIR] [--data=LOCATION] [--json]

Start it like training, also with several processes: then all of them must run it. The exit code is 1 if a check failed,
for example because JAX only found the CPU although the machine has accelerators.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from rankclip_jax import cli
from rankclip_jax.doctor import checks, devices, machine, storage
from rankclip_jax.doctor.checks import FAILED, Finding, Result
from rankclip_jax.parallel import processes
from rankclip_jax.terminal.show import printable, show


def chosen(expect: str, workdir: str, data: str) -> dict[str, Callable[[], Finding]]:
    """The checks to run, by name, in order: processes must be connected before JAX starts."""
    found: dict[str, Callable[[], Finding]] = {
        "hardware": machine.hardware,
        "versions": machine.versions,
        "driver": machine.driver,
        "processes": machine.who_am_i,
        "devices": functools.partial(devices.found, expect),
        "matmul": devices.matmul,
        "all-reduce": devices.all_reduce,
        "compiled programs": machine.compiled_programs,
        "extras": machine.extras,
    }
    if workdir:
        found["run folder"] = functools.partial(storage.run_folder, workdir)
    if data:
        found["data"] = functools.partial(storage.data, data)
    return found


def examine(expect: str = "", workdir: str = "", data: str = "", limit: float = 120) -> list[Result]:
    """Run all checks; none of them raises an error, and none takes longer than `limit` seconds."""
    return [checks.run(name, check, limit) for name, check in chosen(expect, workdir, data).items()]


def as_text(results: Sequence[Result]) -> str:
    """One line for each check."""
    name_width = max(len(result.name) for result in results)
    lines = [f"{result.finding.status:6}  {result.name:{name_width}}  {result.finding.text}" for result in results]
    return "\n".join(map(printable, lines))


def as_json(results: Sequence[Result]) -> str:
    """The same for programs."""
    found = {
        name: {"status": finding.status, "text": finding.text, "seconds": round(seconds, 3), **finding.values}
        for name, finding, seconds in results
    }
    return json.dumps(found, indent=2)


def main(argv: list[str]) -> int:
    del argv
    results = examine(EXPECT.value or "", WORKDIR.value or "", DATA.value or "", LIMIT.value)
    if processes.is_main():
        show(as_json(results) if JSON.value else as_text(results))
    bad = [result for result in results if result.finding.status == FAILED]
    for result in bad:
        print(printable(f"error: {processes.process_label()}{result.name}: {result.finding.text}"), file=sys.stderr)
    if any("no answer" in result.finding.text for result in bad):
        sys.stdout.flush()
        os._exit(1)  # a check that is stuck would also block the normal end
    return int(bool(bad))


if __name__ == "__main__":
    EXPECT = flags.DEFINE_enum("expect", None, ["cpu", "gpu", "tpu"], "fail if JAX runs on another platform")
    WORKDIR = flags.DEFINE_string("workdir", None, "run folder, local or in a bucket, to write to and read from")
    DATA = flags.DEFINE_string("data", None, "file or folder of data, local or in a bucket, to read from")
    LIMIT = flags.DEFINE_float("limit", 120, "seconds for each check", lower_bound=0.1)
    JSON = flags.DEFINE_bool("json", False, "print JSON")
    cli.run(main)
