"""Shared parts of all commands ``python -m rankclip_jax.X``: flags, one-line errors, exit codes.

Exit codes: 0 success, 1 bug (traceback), 2 error that the user can fix (one line), 130 interrupted, 141 the output pipe
is closed.
"""

import difflib
import gc
import logging
import os
import re
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from rankclip_jax.errors import NO_ROOM, UserError, did_you_mean
from rankclip_jax.parallel import processes
from rankclip_jax.terminal import make_printable, printable, printable_lines

CONFIG = "config"


def define_config(required: bool = True) -> flags.FlagHolder:
    """Define ``--config=FILE.py[:ARGUMENT]``, and ``--config.KEY=VALUE`` for every key in the config.

    The flag has no default: ml_collections would load it while modules are still being imported, and a mistyped key
    would end in a traceback. The ``value`` of the returned holder is the locked ConfigDict after flags are parsed.
    """
    text = "config file; --config.KEY=VALUE sets a key"
    holder = config_flags.DEFINE_config_file(CONFIG, default=None, help_string=text, lock_config=True)
    if required:
        flags.mark_flag_as_required(CONFIG)
    return holder


def run(main: Callable[[list[str]], int | None], *, positional: bool = False) -> NoReturn:
    """Parse flags, call ``main(argv)`` and end the process with the exit code of the result.

    Args:
      main: takes argv without the flags; returns the exit code (None means 0).
      positional: whether the command takes positional arguments. Otherwise they are an error, because ``workdir=DIR``
        without dashes would be ignored silently.
    """
    with _quiet_libraries():
        code = _exit_code(main, positional)
        if code:
            gc.collect()  # tasks of a failed save report at their end that nobody waited for them
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BrokenPipeError:
            code = _reader_gone()
        if code and processes.is_multi_process():
            # JAX's exit handler would wait for minutes in a barrier, while the other processes wait for this one.
            os._exit(code)
    sys.exit(code)


def run_named(choose: Callable[[str], Callable[[list[str]], int | None]], unnamed: str) -> NoReturn:
    """`run` the command named by the first argument.

    Args:
      choose: takes the name of a command, defines its flags and returns its main function. Flags are parsed later.
      unnamed: the error message if no command is named.
    """
    name = next((arg for arg in sys.argv[1:] if not arg.startswith("-")), None)
    try:
        main = choose(name) if name else _refuse(UserError(unnamed))
    except UserError as error:
        main = _refuse(error)
        del sys.argv[1:]  # the flags of an unknown command are unknown too
    run(main, positional=True)


def _refuse(error: UserError) -> Callable[[list[str]], None]:
    def refuse(argv: list[str]) -> None:
        raise error

    return refuse


def _exit_code(main: Callable[[list[str]], int | None], positional: bool) -> int:
    try:
        app.run(main, flags_parser=lambda argv: _parse(argv, positional))
    except SystemExit as stop:
        return _code_of(stop)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        _print_error(str(error))
        return 2
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if error.errno not in NO_ROOM:
            return _print_traceback()
        _print_error(f"no disk space left for {error.filename or 'a file'}; free some and run again")
        return 2
    except MemoryError as error:
        _print_error(f"not enough memory ({error}): use smaller files or batches, or a larger machine")
        return 2
    except BaseException:
        return _print_traceback()
    return 0


def _print_traceback() -> int:
    print(printable_lines(traceback.format_exc()), end="", file=sys.stderr)
    return 1


def _reader_gone() -> int:
    """Silence stdout and return the exit code for a closed pipe, as in `| head`. Like other commands, print nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would report it again at exit
    return 128 + signal.SIGPIPE


def _code_of(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    print(stop.code, file=sys.stderr)
    return 1


def _print_error(message: str) -> None:
    line = printable(" ".join(message.split()))
    print(f"error: {processes.process_label()}{line}", file=sys.stderr)


def _parse(argv: Sequence[str], positional: bool) -> list[str]:
    """Parse like `flags.FLAGS(argv)`; every mistake in a flag or config is a `UserError`."""
    argv = ["--help" if arg == "-h" else arg for arg in argv]
    argv = [argv[0], *(re.sub(rf"^-{CONFIG}\b", f"--{CONFIG}", arg) for arg in argv[1:])]
    spec = _config_spec(argv)
    if spec is not None:
        _check_config_file(spec)
    if CONFIG in flags.FLAGS:  # for --help
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[CONFIG])
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        raise SystemExit(0) from None  # after --help and similar flags absl exits with 1
    except UserError:
        raise
    except Exception as error:
        raise _explain(error, argv) from error
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # absl would show the INFO lines of all libraries
    if rest[1:] and not positional:
        known = flags.FLAGS.flag_values_dict()
        hint = did_you_mean(rest[1].split("=")[0], known)
        raise UserError(f"unexpected argument {rest[1]!r}: flags start with --.{hint}")
    return rest


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """While a command runs, drop PIL's warnings and log messages that repeat a raised error; print no raw text."""
    loggers, hook = (logging.getLogger("absl"), logging.getLogger("asyncio")), sys.unraisablehook
    absl_logging.get_absl_handler().addFilter(make_printable)
    # If one write of a save fails, the threads of the other writes raise this error.
    sys.unraisablehook = lambda late: None if str(late.exc_value) == "Event loop is closed" else hook(late)
    for logger in loggers:
        logger.addFilter(_is_not_repeated)
    try:
        with warnings.catch_warnings():
            # PIL warns of broken EXIF and palette transparency, which do no harm here. The texts differ between
            # images: Python would print each of them across the progress bar.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            yield
    finally:
        sys.unraisablehook = hook
        absl_logging.get_absl_handler().removeFilter(make_printable)
        for logger in loggers:
            logger.removeFilter(_is_not_repeated)


def _is_not_repeated(record: logging.LogRecord) -> bool:
    # After a failed write, Orbax logs a traceback in each of its threads, and asyncio one for each write.
    if flags.FLAGS.is_parsed() and flags.FLAGS.verbosity >= 0:
        return True  # the user asked for all messages
    return record.name != "asyncio" and f"{os.sep}orbax{os.sep}" not in record.pathname


def _config_spec(argv: Sequence[str]) -> str | None:
    """Return the last value of --config, 'file.py[:argument]'."""
    spec = None
    for i, arg in enumerate(argv):
        if arg.startswith(f"--{CONFIG}="):
            spec = arg.partition("=")[2]
        elif arg == f"--{CONFIG}":
            spec = "".join(argv[i + 1 : i + 2])
    return spec


def _check_config_file(spec: str) -> None:
    path = spec.split(":", 1)[0]
    if os.path.isfile(path):
        return
    folder = os.path.dirname(path) or "."
    names = os.listdir(folder) if os.path.isdir(folder) else []
    near = [os.path.join(os.path.dirname(path), file) for file in names]
    raise UserError(f"--{CONFIG}: no config file {path!r}.{did_you_mean(path, near)}")


def _explain(error: Exception, argv: Sequence[str]) -> UserError:
    """Return an error that describes the mistake on the command line in one line."""
    spec = _config_spec(argv)
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
