"""Imported once by the server whose forks are the processes of tests: the commands, and the embedded emoji."""

import importlib
import sys

from rankclip_jax.data.sources import emoji
from tests.support.sheets import keep_decoded

COMMANDS = ("train", "evaluate", "benchmark.__main__", "data.__main__", "report.__main__", "weights.__main__")

for name in COMMANDS:
    importlib.import_module(f"rankclip_jax.{name}")
    del sys.modules[f"rankclip_jax.{name}"]  # runpy warns of a main module that is imported already

keep_decoded()
emoji.load()
