"""The config on the command line: which file counts, and what is wrong with a flag, in one line."""

import difflib
import os
import re
import runpy
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError, did_you_mean

CONFIG = "config"


def with_last_config(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the last --config as the first flag, and without earlier ones.

    As for other flags of absl, the last one counts, and its place does not matter. ml_collections would define the keys
    of both files, fail for a key that both have, and not know the keys before the file.
    """
    found = _config_arguments(argv)
    others = set(range(len(argv))) - {i for start, end in found for i in range(start, end)}
    last = argv[slice(*found[-1])] if found else []
    program, *rest = (argv[i] for i in sorted(others))
    return [program, *last, *rest]


def config_spec(argv: Sequence[str]) -> str | None:
    """Return the last value of --config, 'file.py[:argument]'."""
    found = _config_arguments(argv)
    if not found:
        return None
    start, end = found[-1]
    return argv[start].partition("=")[2] if "=" in argv[start] else "".join(argv[start + 1 : end])


def _config_arguments(argv: Sequence[str]) -> list[tuple[int, int]]:
    """The range of arguments of each --config: one argument with "=", otherwise two."""
    last = argv.index("--") if "--" in argv else len(argv)
    starts = [i for i, arg in enumerate(argv[:last]) if arg.split("=", 1)[0] == f"--{CONFIG}"]
    return [(i, i + 1 if "=" in argv[i] else min(i + 2, last)) for i in starts]


def check_config_file(spec: str) -> None:
    """Raise a UserError if the file of a --config is missing."""
    path = spec.split(":", 1)[0]
    if os.path.isfile(path):
        return
    folder = os.path.dirname(path) or "."
    names = os.listdir(folder) if os.path.isdir(folder) else []
    near = [os.path.join(os.path.dirname(path), file) for file in names]
    raise UserError(f"--{CONFIG}: no config file {path!r}.{did_you_mean(path, near)}")


def explain(error: Exception, argv: Sequence[str]) -> UserError:
    """Return an error that describes the mistake on the command line in one line."""
    spec = config_spec(argv)
    config = _load_config(spec) if spec else ConfigDict()
    for key, value in _overrides(argv) if spec else ():
        problem = _key_problem(config, key)
        if problem:
            return UserError(f"--{CONFIG}.{key}: {problem}")
        if str(error).startswith(f"flag --{CONFIG}.{key}={value}:"):
            return UserError(f"--{CONFIG}.{key}={value}: {_type_problem(config, key)}")
    return UserError(_flag_problem(error))


def _load_config(spec: str) -> Any:
    """Load a config again, to distinguish a mistake in the file from one on the command line."""
    path, *argument = spec.split(":", 1)
    try:
        return runpy.run_path(path)["get_config"](*argument)
    except UserError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = f"{path} line {line}" if line else spec
        text = str(error).split("Other fields present")[0]  # ml_collections appends the whole config
        raise UserError(f"--{CONFIG}: {where}: {type(error).__name__}: {text}") from error


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, arg in enumerate(argv):
        match = re.match(rf"--?(?:no)?{CONFIG}\.([^=]+)(?:=(.*))?$", arg, re.DOTALL)
        if match:
            following = argv[i + 1] if i + 1 < len(argv) else ""
            yield match[1], match[2] if match[2] is not None else following


def _key_problem(config: ConfigDict, key: str) -> str | None:
    parts = key.split(".")
    node = config
    for depth, part in enumerate(parts):
        name = part.split("[")[0]
        if not isinstance(node, ConfigDict):
            return f"{'.'.join(parts[:depth])!r} is a single value and has no key {part!r}."
        if name not in node:
            near, here = _nearest_key(config, key), ", ".join(sorted(node.keys()))
            return f"unknown config key {key!r}. " + (f"Did you mean {near!r}?" if near else f"Known here: {here}.")
        node = node[name]
    return None


def _nearest_key(config: ConfigDict, key: str) -> str | None:
    """Return the most similar key: in the same section, else in a misspelt section, else in another section."""
    section, _, leaf = key.rpartition(".")
    keys = list(_dotted(config))
    siblings = {known.rpartition(".")[2]: known for known in keys if known.rpartition(".")[0] == section}
    whole = {} if siblings else {known: known for known in keys}
    anywhere = {known.rpartition(".")[2]: known for known in keys}
    for name, known in ((leaf, siblings), (key, whole), (leaf, anywhere)):
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            return known[close[0]]
    return None


def _dotted(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _dotted(value, f"{prefix}{name}.")


def _type_problem(config: ConfigDict, key: str) -> str:
    *sections, name = key.split("[")[0].split(".")
    for section in sections:
        config = config[section]
    current = config[name]
    if isinstance(current, ConfigDict):
        return f"this is a section; set its keys, such as --{CONFIG}.{key}.{next(iter(current), 'key')}=..."
    example = "" if current is None else f", such as {current!r}"
    return f"expected a value of type {config.get_type(name).__name__}{example}"


def _flag_problem(error: Exception) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith(f"{CONFIG}."):
            return f"--{CONFIG}=FILE.py is required to set --{error.flagname}"
        known = [name for name in flags.FLAGS if not name.startswith("no")]
        return f"unknown flag --{error.flagname}.{did_you_mean(error.flagname, known)} See --help."
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    required = re.match(r"flag --(\w+)=None: .*must have a value other than None", text)
    return f"--{required[1]} is required; see --help" if required else text
