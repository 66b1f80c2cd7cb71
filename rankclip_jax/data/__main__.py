"""Inspect and convert data: ``python -m rankclip_jax.data COMMAND --config=FILE.py [--config.data.KEY=VALUE ...]``

preview    print pairs as the towers get them, and write a grid of their images
validate   decode all pairs; write a list of the bad ones, for config.data.quarantine
stats      print counts, image sizes, caption lengths, repeated captions, and the digest that a run stores
bench      measure the pairs per second of each stage, and find the slowest stage
index      index tars now rather than when training starts
convert    write the training pairs as ArrayRecord files, for fast random access
captions   write second captions, for objectives such as ALIP

COMMAND --help lists its flags.
"""

from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli
from rankclip_jax.data.commands import COMMANDS, command_of
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError


def choose(name: str) -> Callable[[list[str]], None]:
    """Define the flags of a command, and return its main function."""
    command = command_of(name)
    config = cli.define_config()
    command.define_flags()
    flags.adopt_module_key_flags(command)  # so that --help shows them

    def main(argv: list[str]) -> None:
        if argv[2:]:
            raise UserError(f"unexpected argument {argv[2]!r}: flags start with --.")
        command.run(config.value, make_tokenizer)

    return main


def make_tokenizer(config: ConfigDict, train: RecordSource) -> Tokenizer:
    """The tokenizer of a new run of `config`. Commands get this function, because they must not import `training`."""
    from rankclip_jax.training.init_from import read_initial
    from rankclip_jax.training.setup import build_tokenizer

    return build_tokenizer(config, train, None, initial=read_initial(config, None))


if __name__ == "__main__":
    known = ", ".join(COMMANDS)
    cli.run_named(choose, f"name a command: python -m rankclip_jax.data COMMAND --config=FILE.py. Known: {known}.")
