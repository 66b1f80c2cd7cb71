"""Commands on data: each module has ``define_flags()`` and ``run(config, make_tokenizer)``.

`config` is a whole config; `make_tokenizer(config, train)` builds the tokenizer of a new run.
"""

import importlib
from types import ModuleType

from rankclip_jax.errors import lookup

# Line of the help text by name.
COMMANDS = {
    "preview": "print pairs as the towers get them, and write a grid of their images",
    "validate": "decode all pairs; write a list of the bad ones, for config.data.quarantine",
    "stats": "print counts, image sizes, caption lengths, repeated captions, and the digest that a run stores",
    "bench": "measure the pairs per second of each stage, and find the slowest stage",
    "index": "index tars now rather than when training starts",
    "convert": "write the training pairs as ArrayRecord files, for fast random access",
    "captions": "write second captions, for objectives such as ALIP",
}


def command_of(name: str) -> ModuleType:
    """The module of a command, imported on use: some need libraries that load slowly."""
    lookup(COMMANDS, name, "command")
    return importlib.import_module(f"{__name__}.{name}")
