"""What a training step needs on a machine that is not here: memory, collectives, time.

    python -m rankclip_jax.plan --config=configs/base.py:ViT-B/32 --topology=v5e:4x4 --config.batch_size=4096
    python -m rankclip_jax.plan --config=... --topology=cpu:8 --fsdp=1,8 --objectives=clip,siglip

The command compiles the train step of the config for the topology on this machine's CPU, and reads the figures from the
compiled program: see docs/scaling.md. It needs neither the devices nor the data. TPU topologies need
``pip install -e '.[tpu]'``.
"""

import json
import os
import re
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.plan.cases import KEYS, cases
from rankclip_jax.plan.describe import describe, table
from rankclip_jax.plan.progress import elapsed
from rankclip_jax.plan.result import Result, result_of
from rankclip_jax.plan.step import build, compile_step
from rankclip_jax.plan.topology import KNOWN, Machine, open_machine
from rankclip_jax.run_folder import make_writable
from rankclip_jax.terminal.show import show

# Without --pairs the length of an epoch is not known. It sets the schedule's constants only, which cost nothing.
NOMINAL_PAIRS = 12_000_000


def define_flags() -> None:
    """Define the command's flags."""
    cli.define_config()
    flags.DEFINE_string("topology", None, f"devices to compile for: {KNOWN}", required=True)
    flags.DEFINE_list("batch_sizes", [], "global batch sizes to compare; default: config.batch_size")
    flags.DEFINE_list("fsdp", [], "sizes of the mesh's fsdp axis to compare; default: config.mesh.fsdp")
    flags.DEFINE_list("micro_batches", [], "numbers of micro-batches to compare; default: config.micro_batches")
    flags.DEFINE_list("objectives", [], "objectives to compare, with default options; default: config.objective")
    flags.DEFINE_integer("pairs", 0, "number of training pairs, for the time of the whole run", lower_bound=0)
    flags.DEFINE_integer("vocab_size", 0, "number of tokens; default: that of config.tokenizer", lower_bound=0)
    flags.DEFINE_string("out", None, "JSON file for the results")
    flags.DEFINE_string("hlo", None, "folder for the compiled programs as text")


def plan(config: ConfigDict, machine: Machine, pairs: int = 0, vocab_size: int = 0, hlo: str | None = None) -> Result:
    """Compile the train step of one config for `machine` and read its figures.

    Args:
      config: a complete config.
      machine: from `open_machine`.
      pairs: number of training pairs; 0 if unknown.
      vocab_size: number of tokens; 0 for the tokenizer's.
      hlo: folder for the program as text.

    Raises:
      UserError: anything in the config that does not fit together or to the machine.
    """
    mesh = make_mesh(machine.devices, fsdp=config.mesh.fsdp, replica=config.mesh.replica)
    parts = build(config, mesh, pairs or NOMINAL_PAIRS, vocab_size)
    name = f"{config.model.name} {config.objective.name} {config.batch_size} on {machine.name}, fsdp {config.mesh.fsdp}"
    with elapsed(f"compiling {name}"):
        compiled = compile_step(parts)
    if hlo:
        (Path(hlo) / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}.txt").write_text(compiled.text)
    return result_of(parts, machine, compiled) | {"pairs_known": bool(pairs)}


def main(argv: list[str]) -> None:
    """Compile every case and print its figures; at the end a table of all."""
    del argv
    given = flags.FLAGS
    jax.config.update("jax_platforms", "cpu")  # an accelerator of this machine has nothing to do with the plan
    chosen = list(cases(given.config, given.objectives, **{flag: given[flag].value for flag in KEYS}))
    for folder in filter(None, [given.out and os.path.dirname(os.path.abspath(given.out)), given.hlo]):
        make_writable(folder, folder, "give another")  # before minutes of compiling
    machine, results = open_machine(given.topology), []
    for case in chosen:
        results.append(plan(case, machine, given.pairs, given.vocab_size, given.hlo))
        show(describe(results[-1]) + "\n")
        if given.out:
            with replaced_file(given.out) as file:
                json.dump(results, file, indent=1)
    if len(results) > 1:
        show(table(results))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
