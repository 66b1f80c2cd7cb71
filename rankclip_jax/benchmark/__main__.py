"""Measure speed: ``python -m rankclip_jax.benchmark NAME [--FLAG=VALUE ...]``; NAME --help lists its flags.

data          batches from tars, beside the webdataset library with PyTorch's DataLoader
objectives    loss and gradients alone, by batch size, beside the released arithmetic in PyTorch
step          the train step of one config with several objectives
towers        the train step of a model by its name, beside transformers' CLIP in PyTorch
"""

import sys
from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.benchmark import BENCHMARKS
from rankclip_jax.errors import UserError, lookup


def choose(argv: list[str]) -> Callable[[list[str]], None]:
    """Define the flags of the benchmark that `argv` names, before any is parsed; return its main function."""
    name = next((arg for arg in argv if not arg.startswith("-")), None)
    if name is None:
        return _no_name
    benchmark = lookup(BENCHMARKS, name, "benchmark")
    benchmark.define_flags()
    flags.adopt_module_key_flags(benchmark)  # so that --help shows them
    return benchmark.main


def _no_name(argv: list[str]) -> None:
    raise UserError(f"name a benchmark: python -m rankclip_jax.benchmark NAME. Known: {', '.join(BENCHMARKS)}.")


def _refuse(error: UserError) -> Callable[[list[str]], None]:
    def refuse(argv: list[str]) -> None:
        raise error

    return refuse


if __name__ == "__main__":
    try:
        main = choose(sys.argv[1:])
    except UserError as error:
        main = _refuse(error)
        del sys.argv[1:]  # flags of no known benchmark
    cli.run(main, positional=True)
