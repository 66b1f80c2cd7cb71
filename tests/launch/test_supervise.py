"""launch/supervise.sh: what it does after each exit code, its limits, and signals."""

import signal
import time

import pytest

from tests.launch.scripts import finish, is_alive, run, start

FAST = ("--first-wait=0", "--longest-wait=0")


def exits_with(tmp_path, *codes: int) -> tuple[str, ...]:
    """A command that exits with one code after the other, and with the last one from then on."""
    starts = tmp_path / "starts"
    program = f"""echo >> {starts}
      codes=({" ".join(map(str, codes))}); n=$(wc -l < {starts}); ((n > {len(codes)})) && n={len(codes)}
      exit "${{codes[n-1]}}" """
    return "bash", "-c", program


def count_starts(tmp_path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


@pytest.mark.parametrize("codes", [(0,), (75, 0), (75, 75, 75, 0), (1, 0), (137, 134, 75, 0)])
def test_restarts_until_a_good_end(tmp_path, codes):
    code, _, err = run("supervise.sh", *FAST, *exits_with(tmp_path, *codes))
    assert (code, count_starts(tmp_path)) == (0, len(codes)), err


@pytest.mark.parametrize("code", [2, 126, 127, 130])
def test_what_only_the_user_can_fix_is_not_restarted(tmp_path, code):
    found, _, err = run("supervise.sh", *FAST, *exits_with(tmp_path, 75, code))
    assert (found, count_starts(tmp_path)) == (code, 2) and f"exit code {code}: not restarted" in err


def test_a_missing_command_ends_at_once(tmp_path):
    assert run("supervise.sh", *FAST, str(tmp_path / "missing"))[0] == 127


def test_crashes_in_a_row_have_a_limit(tmp_path):
    code, _, err = run("supervise.sh", *FAST, "--max-crashes=2", *exits_with(tmp_path, 134))
    assert (code, count_starts(tmp_path)) == (134, 3) and "crash 3 in a row, given up" in err


def test_75_begins_a_new_row_of_crashes(tmp_path):
    command = exits_with(tmp_path, 1, 1, 75, 1, 1, 0)
    assert run("supervise.sh", *FAST, "--max-crashes=2", *command)[0] == 0


def test_a_healthy_run_begins_a_new_row_of_crashes(tmp_path):
    command = exits_with(tmp_path, 1, 1, 1, 1, 0)
    assert run("supervise.sh", *FAST, "--max-crashes=1", "--healthy=0", *command)[0] == 0


def test_waits_double_up_to_a_limit(tmp_path):
    begin = time.monotonic()
    options = ("--first-wait=1", "--longest-wait=2", "--max-crashes=3")
    code, _, err = run("supervise.sh", *options, *exits_with(tmp_path, 1))
    assert code == 1 and [line.rsplit(None, 2)[1] for line in err.splitlines()[:3]] == ["1", "2", "2"], err
    assert time.monotonic() - begin >= 5


CHILD = """trap 'echo got TERM; exit 75' TERM; trap 'echo got INT; exit 75' INT
echo $$; while :; do sleep 0.05; done"""


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_signals_are_passed_on_and_end_the_restarts(name):
    process = start("supervise.sh", *FAST, "bash", "-c", CHILD)
    child = int(process.stdout.readline())
    process.send_signal(getattr(signal, f"SIG{name}"))
    code, out, err = finish(process)
    assert (code, out) == (75, f"got {name}\n"), err
    assert not is_alive(child)


def test_a_signal_between_two_runs_ends_the_wait(tmp_path):
    process = start("supervise.sh", "--first-wait=60", *exits_with(tmp_path, 75))
    assert "restart in 60 s" in process.stderr.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 75 and time.monotonic() - begin < 5
    assert count_starts(tmp_path) == 1


def test_dry_run_starts_nothing(tmp_path):
    code, out, _ = run("supervise.sh", "--dry-run", *exits_with(tmp_path, 0))
    assert code == 0 and out.startswith("would run: bash -c ") and not (tmp_path / "starts").exists()


@pytest.mark.parametrize("arguments", [(), ("--max-crashes=many", "true"), ("--unknown", "true")])
def test_mistakes_are_one_line(arguments):
    code, _, err = run("supervise.sh", *arguments)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
