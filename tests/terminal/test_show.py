"""Text from files reaches the terminal without control characters."""

import logging

import pytest

from rankclip_jax.terminal.show import make_printable, printable, printable_lines, show
from tests.support import commands

RAW = "\x1b[2J\x1b]0;title\x07 a dog\r\n\u202egod\ud83d"
ESCAPED = r"\x1b[2J\x1b]0;title\x07 a dog\r\n\u202egod\ud83d"


def test_control_characters_become_escapes():
    assert printable(RAW) == ESCAPED == printable(ESCAPED)
    assert printable_lines(f"{RAW}\nnext") == ESCAPED.replace(r"\r\n", "\\r\n") + "\nnext"


@pytest.mark.parametrize("text", ["écran, 写真　猫", "👩\u200d🚒", "می\u200cخواهم", "C:\\x1b\\new", ""])
def test_other_text_is_unchanged(text):
    assert printable(text) == text


def test_show_and_log_messages(capsys):
    show(RAW)
    assert capsys.readouterr().out == ESCAPED.replace(r"\r\n", "\\r\n") + "\n"
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: %d", ("\x1b[1mkey", 3), None)
    assert make_printable(record) and record.getMessage() == r"\x1b[1mkey: 3"


def test_errors_and_warnings_of_a_command(capsys):
    code = (
        "import sys\nfrom absl import logging as absl_logging\nfrom rankclip_jax import cli\n"
        "from rankclip_jax.errors import UserError\n"
        "def main(argv):\n"
        "    absl_logging.get_absl_handler().python_handler.stream = sys.stderr\n"
        "    absl_logging.warning('caption %s', '\\x1b[31mred')\n"
        "    raise UserError('bad key \\x1b]0;x\\x07')\n"
        "cli.run(main)\n"
    )
    exit_code, out, err = commands.run_code(capsys, code)
    assert exit_code == 2 and out == "" and "\x1b" not in err
    assert r"caption \x1b[31mred" in err and err.endswith("error: bad key \\x1b]0;x\\x07\n")
