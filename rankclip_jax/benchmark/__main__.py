"""Measure speed: ``python -m rankclip_jax.benchmark NAME [--FLAG=VALUE ...]``; NAME --help lists its flags.

data          batches from tars, beside the webdataset library with PyTorch's DataLoader
objectives    loss and gradients alone, by batch size, beside the released arithmetic in PyTorch
step          the train step of one config with several objectives
towers        the train step of a model by its name, beside transformers' CLIP in PyTorch
"""

from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark import BENCHMARKS
from rankclip_jax.errors import lookup


def choose(name: str) -> Callable[[list[str]], None]:
    """Define the flags of a benchmark; return its main function."""
    benchmark = lookup(BENCHMARKS, name, "benchmark")
    benchmark.define_flags()
    flags.adopt_module_key_flags(benchmark)  # so that --help shows them
    return benchmark.main


if __name__ == "__main__":
    cli.run_named(choose, f"name a benchmark: python -m rankclip_jax.benchmark NAME. Known: {', '.join(BENCHMARKS)}.")
