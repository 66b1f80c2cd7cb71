"""Measure speed: ``python -m rankclip_jax.benchmark NAME [--FLAG=VALUE ...]``; NAME --help lists its flags.

data          batches from tars, compared with the webdataset library and PyTorch's DataLoader
encode        one image, one caption, and many, compared with open_clip
evaluate      the metrics of an evaluation, by group, compared with dense NumPy
objectives    loss and gradients alone, by batch size, compared with the released arithmetic in PyTorch
save          what logging and checkpoints add to the time of training
start         the seconds from the training command to its first step, by phase
step          the training step of one config with several objectives
towers        the training step of a model preset, compared with transformers' CLIP in PyTorch
"""

import sys
from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark import BENCHMARKS, runner
from rankclip_jax.errors import lookup


def choose(name: str) -> Callable[[list[str]], None]:
    """Define the flags of a benchmark; return its main function."""
    benchmark = lookup(BENCHMARKS, name, "benchmark")
    runner.define_flags(benchmark)
    for module in (runner, sys.modules[benchmark.define_flags.__module__]):
        flags.adopt_module_key_flags(module)  # for --help
    return runner.make_main(name, benchmark)


if __name__ == "__main__":
    cli.run_named(choose, f"name a benchmark: python -m rankclip_jax.benchmark NAME. Known: {', '.join(BENCHMARKS)}.")
