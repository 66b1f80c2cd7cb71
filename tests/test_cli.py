"""The command line: exit codes, and one line on stderr for every mistake of the user."""

import pytest

from tests.support import commands, processes

CONFIG = """
from ml_collections import ConfigDict, config_dict

from rankclip_jax.errors import UserError


def get_config(arg=None):
    if arg == "value":
        raise ValueError("no such size")
    if arg == "user":
        raise UserError("unknown size 'x'")
    config = ConfigDict()
    config.batch_size = 256
    config.duration = "10 steps"
    config.ranked = True
    config.seed = config_dict.placeholder(int)
    config.sizes = (1, 2)
    config.model = ConfigDict({"width": 32, "lr": 1e-3})
    if arg == "locked":
        config.lock()
        config.batchsize = 1
    return config
"""

PROGRAM = """
import errno
from absl import flags
from rankclip_jax import cli
from rankclip_jax.errors import UserError
CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
def main(argv):
    print(CONFIG.value.batch_size, CONFIG.value.model.width, CONFIG.value.sizes, CONFIG.value.seed,
          CONFIG.value.duration, CONFIG.value.ranked)
    raise {"user": UserError("a line\\nand another"), "bug": ValueError("a bug"),
           "interrupt": KeyboardInterrupt(), "exit": SystemExit(7), "text": SystemExit("the end"),
           "full": OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"),
           "closed": PermissionError(errno.EACCES, "Permission denied", "run/x"),
           "mounted": OSError(errno.EROFS, "Read-only file system", "run/x"),
           "missing": FileNotFoundError(errno.ENOENT, "none", "x")}.get(WORKDIR.value, SystemExit(0))
cli.run(main)
"""


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "emoji.py").write_text(CONFIG)
    (tmp_path / "broken.py").write_text("x = = 1\n")
    (tmp_path / "imports.py").write_text("\nimport no_such_module\n")

    def run(*arguments):
        expanded = [argument.replace("TMP", str(tmp_path)) for argument in arguments]
        return commands.run_code(capsys, PROGRAM, *expanded)

    return run


ADVICE = "change its permissions, or give another path"
GOOD = ("--config=TMP/emoji.py", "--workdir=ok")


def test_overrides_of_every_type(run):
    code, out, err = run(
        *GOOD,
        "--config.batch_size=64",
        "--config.model.width",
        "48",
        "--config.sizes=(3, 4)",
        "--config.seed=5",
        "--config.duration=3 epochs",
        "--noconfig.ranked",
    )
    assert (code, out, err) == (0, "64 48 (3, 4) 5 3 epochs False\n", "")


@pytest.mark.parametrize(
    "workdir, exit_code, line",
    [
        ("user", 2, "error: a line and another"),
        ("full", 2, "error: no disk space left for metrics.jsonl; free some and run again"),
        ("closed", 2, "error: cannot access run/x (Permission denied): change its permissions, or give another path"),
        (
            "mounted",
            2,
            "error: cannot access run/x (Read-only file system): change its permissions, or give another path",
        ),
        ("interrupt", 130, ""),
        ("exit", 7, ""),
        ("text", 1, "the end"),
    ],
)
def test_exit_codes(run, workdir, exit_code, line):
    code, out, err = run("--config=TMP/emoji.py", f"--workdir={workdir}")
    assert (code, err.strip()) == (exit_code, line)
    assert out.startswith("256 32")  # what was printed before is not lost


@pytest.mark.parametrize("workdir, last", [("bug", "ValueError: a bug"), ("missing", "FileNotFoundError:")])
def test_a_bug_prints_a_traceback(run, workdir, last):
    code, _, err = run("--config=TMP/emoji.py", f"--workdir={workdir}")
    assert code == 1 and err.startswith("Traceback") and err.splitlines()[-1].startswith(last)


MISTAKES = {
    "--config.modle.width=1": "--config.modle.width: unknown config key 'modle.width'. Did you mean 'model.width'?",
    "--config.model.widht=1": "--config.model.widht: unknown config key 'model.widht'. Did you mean 'model.width'?",
    "--config.width=1": "--config.width: unknown config key 'width'. Did you mean 'model.width'?",
    "--config.model.zzz=1": "--config.model.zzz: unknown config key 'model.zzz'. Known here: lr, width.",
    "--config.batch-size=1": "unknown config key 'batch-size'. Did you mean 'batch_size'?",
    "--config.model.lr.x=1": "--config.model.lr.x: 'model.lr' is a single value and has no key 'x'.",
    "--config.batch_size=many": "--config.batch_size=many: expected a value of type int, such as 256",
    "--config.batch_size=1.5": "--config.batch_size=1.5: expected a value of type int, such as 256",
    "--config.model.lr=fast": "--config.model.lr=fast: expected a value of type float, such as 0.001",
    "--config.ranked=maybe": "--config.ranked=maybe: expected a value of type bool, such as True",
    "--config.seed=x": "--config.seed=x: expected a value of type int",
    "--config.model=3": "this is a section; set its keys, such as --config.model.",
    "--config.batch_size": "Missing value for flag --config.batch_size",
    "--wrokdir=x": "unknown flag --wrokdir. Did you mean 'workdir'? See --help.",
    "workdir=x": "unexpected argument 'workdir=x': flags start with --. Did you mean 'workdir'?",
    "--config=TMP/emojy.py": "emojy.py'. Did you mean '",
    "--config=TMP/broken.py": "broken.py line 1: SyntaxError: invalid syntax",
    "--config=TMP/imports.py": "imports.py line 2: ModuleNotFoundError: No module named 'no_such_module'",
    "--config=TMP/emoji.py:value": "emoji.py line 9: ValueError: no such size",
    "--config=TMP/emoji.py:user": "unknown size 'x'",
    "--config=TMP/emoji.py:locked": 'Key "batchsize" does not exist and cannot be added',
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(run, mistake):
    code, out, err = run(*GOOD, mistake)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    assert MISTAKES[mistake] in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "is required; see --help\n"),
        (["--workdir=x"], "error: --config is required; see --help\n"),
        (["--workdir=x", "--config.batch_size=3"], "error: --config=FILE.py is required to set"),
    ],
)
def test_required_flags(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and message in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config=TMP/broken.py", *GOOD, "--config.batch_size=64"),
        ("--config.batch_size=64", "--config=TMP/emoji.py:value", *GOOD),
        ("-config", "TMP/none.py", "--config.batch_size", "64", "--workdir=ok", "--config", "TMP/emoji.py"),
        (*GOOD, *GOOD, "--config.batch_size=64", "--workdir=ok"),
    ],
)
def test_the_last_config_counts(run, arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "") and out.startswith("64 32")


@pytest.mark.parametrize("help_flag", ["--help", "-h"])
def test_help(run, help_flag):
    code, out, _ = run(help_flag)
    assert code == 0 and "--workdir: folder of the run" in out and "--config: config file" in out


def test_a_closed_pipe_ends_the_command_silently():
    """As in `command | head`."""
    process = processes.start_new(
        "from rankclip_jax import cli\ncli.run(lambda argv: [print(i) for i in range(10**6)] and None)"
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


SCOPED = """
import logging, sys, warnings
from rankclip_jax import cli
def quiet():
    hidden = any(f[0] == "ignore" and f[3] is not None and f[3].pattern == "PIL\\\\." for f in warnings.filters)
    return sys.unraisablehook is not before, len(logging.getLogger("absl").filters), hidden
before = sys.unraisablehook
def main(argv):
    print(quiet())
    warnings.warn_explicit("broken EXIF", UserWarning, "Image.py", 1, module="PIL.Image")
    raise {"bug": ValueError, "exit": SystemExit}[argv[1]]
print(quiet())
try:
    cli.run(main, positional=True)
finally:
    print(quiet())
"""


@pytest.mark.parametrize("how", ["bug", "exit"])
def test_libraries_are_silenced_only_while_a_command_runs(how):
    _, out, err = processes.run(SCOPED, how)
    assert "EXIF" not in err
    assert out.splitlines() == ["(False, 0, False)", "(True, 1, True)", "(False, 0, False)"]


def test_importing_the_package_does_not_silence_pil():
    code = "import warnings, rankclip_jax.data.images.decode\nprint([f for f in warnings.filters if 'PIL' in str(f)])"
    assert processes.finish(processes.start_new(code))[:2] == (0, "[]\n")
