"""Look at data: ``python -m rankclip_jax.data COMMAND --config=FILE.py [--config.data.KEY=VALUE ...]``

preview    some pairs as the towers get them, and a grid of their pictures
validate   decode everything; write a list of what is broken, for config.data.quarantine
stats      counts, sizes of pictures, lengths of captions, repeated captions, the digest that a run stores
bench      pairs per second of each stage, and which one limits
index      index tars now rather than when training starts
convert    write the training pairs as ArrayRecord files, for fast random access
captions   write second captions, for objectives such as ALIP

COMMAND --help lists its flags.
"""

import sys
from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.data.commands import COMMANDS, command_of
from rankclip_jax.errors import UserError


def choose(argv: list[str]) -> Callable[[list[str]], None]:
    """Define the flags of the command that `argv` names, before any is parsed; return what to run."""
    name = next((arg for arg in argv if not arg.startswith("-")), None)
    if name is None:
        return _no_name
    command = command_of(name)
    config = cli.define_config()
    command.define_flags()
    flags.adopt_module_key_flags(command)  # so that --help shows them

    def main(argv: list[str]) -> None:
        if argv[2:]:
            raise UserError(f"unexpected argument {argv[2]!r}: flags start with --.")
        command.run(config.value)

    return main


def _no_name(argv: list[str]) -> None:
    raise UserError(
        f"name a command: python -m rankclip_jax.data COMMAND --config=FILE.py. Known: {', '.join(COMMANDS)}."
    )


def _refuse(error: UserError) -> Callable[[list[str]], None]:
    def refuse(argv: list[str]) -> None:
        raise error

    return refuse


if __name__ == "__main__":
    try:
        main = choose(sys.argv[1:])
    except UserError as error:
        main = _refuse(error)
        del sys.argv[1:]  # flags of no known command
    cli.run(main, positional=True)
