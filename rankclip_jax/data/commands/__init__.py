"""Commands on data: each module has ``define_flags()`` and ``run(config)``, with `config` the whole config."""

import importlib
from types import ModuleType

from rankclip_jax.errors import lookup

# Name, and the line that help shows.
COMMANDS = {
    "preview": "some pairs as the towers get them, and a grid of their images",
    "validate": "decode everything; write a list of what is broken, for config.data.quarantine",
    "stats": "counts, sizes of images, lengths of captions, repeated captions, the digest that a run stores",
    "bench": "pairs per second of each stage, and which one limits",
    "index": "index tars now rather than when training starts",
    "convert": "write the training pairs as ArrayRecord files, for fast random access",
    "captions": "write second captions, for objectives such as ALIP",
}


def command_of(name: str) -> ModuleType:
    """The module of a command; imported when it is used, because some need libraries that take a second."""
    lookup(COMMANDS, name, "command")
    return importlib.import_module(f"{__name__}.{name}")
