"""Shared parts of all commands ``python -m rankclip_jax.X``: flags, one-line errors, exit codes.

Exit codes: 0 success, 1 bug (traceback), 2 error that the user can fix (one line), 75 stopped, or another process was
lost: the same command continues the run, 130 interrupted, 141 the output pipe is closed.
"""

import gc
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from rankclip_jax.config.command_line import CONFIG, check_config_file, config_spec, explain, with_last_config
from rankclip_jax.errors import NO_ACCESS, NO_ROOM, Stopped, UserError, did_you_mean
from rankclip_jax.parallel import peers, processes
from rankclip_jax.terminal.show import make_printable, printable, printable_lines


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
            peers.leave(code)
        peers.close()
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
        return _print_error(str(error))
    except Stopped as stop:
        print(f"{processes.process_label()}{printable(stop)}", file=sys.stderr)
        return peers.RESTART
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        advice = _advice(error)
        return _print_error(advice) if advice else _print_traceback(error)
    except MemoryError as error:
        return _print_error(f"not enough memory ({error}): use smaller files or batches, or a larger machine")
    except BaseException as error:
        return _print_traceback(error)
    return 0


def _advice(error: OSError) -> str:
    """What the user can do about a disk that is full or cannot be accessed; "" for other errors."""
    path = error.filename or "a file"
    if error.errno in NO_ROOM:
        return f"no disk space left for {path}; free some and run again"
    if error.errno in NO_ACCESS:
        return f"cannot access {path} ({error.strerror}): change its permissions, or give another path"
    return ""


def _print_traceback(error: BaseException) -> int:
    """Print the traceback of a bug; for the loss of another process one line, and the exit code asks for a restart."""
    if peers.is_lost(error):
        _print_error(peers.cause_of(error), peers.RESTART)
        peers.leave(peers.RESTART)  # JAX aborts this process soon
    print(printable_lines(traceback.format_exc()), end="", file=sys.stderr)
    peers.announce(f"a bug: {traceback.format_exception_only(error)[-1].strip()}", 1)
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


def _print_error(message: str, code: int = 2) -> int:
    """Print the line, tell it to the other processes, and return the exit code."""
    line = printable(" ".join(message.split()))
    print(f"error: {processes.process_label()}{line}", file=sys.stderr)
    peers.announce(line, code)
    return code


def _parse(argv: Sequence[str], positional: bool) -> list[str]:
    """Parse like `flags.FLAGS(argv)`; every mistake in a flag or config is a `UserError`."""
    argv = ["--help" if arg == "-h" else arg for arg in argv]
    argv = [argv[0], *(re.sub(rf"^-{CONFIG}\b", f"--{CONFIG}", arg) for arg in argv[1:])]
    argv = with_last_config(argv)
    sys.argv[:] = argv  # ml_collections reads the keys there
    spec = config_spec(argv)
    if spec is not None:
        check_config_file(spec)
    if CONFIG in flags.FLAGS:  # for --help
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[CONFIG])
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        raise SystemExit(0) from None  # after --help and similar flags absl exits with 1
    except UserError:
        raise
    except Exception as error:
        raise explain(error, argv) from error
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
