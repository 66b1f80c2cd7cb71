"""Look at data: ``python -m rankclip_jax.data COMMAND --config=FILE.py [--config.data.KEY=VALUE ...]``

preview    some pairs as the towers get them, and a grid of their images
validate   decode everything; write a list of what is broken, for config.data.quarantine
stats      counts, sizes of images, lengths of captions, repeated captions, the digest that a run stores
bench      pairs per second of each stage, and which one limits
index      index tars now rather than when training starts
convert    write the training pairs as ArrayRecord files, for fast random access
captions   write second captions, for objectives such as ALIP

COMMAND --help lists its flags.
"""

from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.data.commands import COMMANDS, command_of
from rankclip_jax.errors import UserError


def choose(name: str) -> Callable[[list[str]], None]:
    """Define the flags of a command; return what to run."""
    command = command_of(name)
    config = cli.define_config()
    command.define_flags()
    flags.adopt_module_key_flags(command)  # so that --help shows them

    def main(argv: list[str]) -> None:
        if argv[2:]:
            raise UserError(f"unexpected argument {argv[2]!r}: flags start with --.")
        command.run(config.value)

    return main


if __name__ == "__main__":
    known = ", ".join(COMMANDS)
    cli.run_named(choose, f"name a command: python -m rankclip_jax.data COMMAND --config=FILE.py. Known: {known}.")
