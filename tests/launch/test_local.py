"""launch/local.sh: variables, output, exit codes, signals, and that no process is left behind."""

import signal
import time

import pytest

from tests.launch.scripts import finish, is_alive, run, start


def test_each_process_has_its_index_and_a_prefix():
    program = 'echo "$RANKCLIP_PROCESS_ID of $RANKCLIP_PROCESS_COUNT at $RANKCLIP_COORDINATOR"; echo problem >&2'
    code, out, err = run("local.sh", "--port=2345", 3, "bash", "-c", program)
    assert code == 0
    assert sorted(out.splitlines()) == [f"[{i}] {i} of 3 at 127.0.0.1:2345" for i in range(3)]
    assert sorted(err.splitlines()) == [f"[{i}] problem" for i in range(3)]


def test_a_port_is_chosen():
    _, out, _ = run("local.sh", 2, "bash", "-c", 'echo "$RANKCLIP_COORDINATOR"')
    first, second = (line[4:] for line in out.splitlines())
    assert first == second and 20000 <= int(first.rpartition(":")[2]) < 30000


@pytest.mark.parametrize("code", [2, 75, 1])
def test_the_exit_code_is_that_of_the_first_that_fails(code):
    program = f"if ((RANKCLIP_PROCESS_ID == 1)); then exit {code}; else sleep 0.4; exit 9; fi"
    assert run("local.sh", 2, "bash", "-c", program)[0] == code


def test_the_others_are_killed_with_what_they_started():
    program = """((RANKCLIP_PROCESS_ID)) && { sleep 0.3; kill -9 $$; }
    trap '' TERM INT; sleep 50 & echo $!; wait; wait"""
    begin = time.monotonic()
    code, out, err = run("local.sh", "--grace=1", 2, "bash", "-c", program)
    assert code == 137 and time.monotonic() - begin < 10, err
    assert "process 1 of 2 ended with exit code 137" in err and "1 processes still ran 1 s later: killed" in err
    assert not is_alive(int(out.split()[1]))


CHILD = """trap 'echo got TERM; exit 75' TERM; trap 'echo got INT; exit 75' INT
echo ready; while :; do sleep 0.05; done"""


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_signals_reach_all_processes_once(name):
    process = start("local.sh", 2, "bash", "-c", CHILD)
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    process.send_signal(getattr(signal, f"SIG{name}"))
    code, out, err = finish(process)
    assert code == 75, err
    assert sorted(out.splitlines()) == [f"[0] got {name}", f"[1] got {name}"]


def test_dry_run():
    code, out, _ = run("local.sh", "--dry-run", "--port=5", 2, "python", "a b")
    variables = "RANKCLIP_COORDINATOR=127.0.0.1:5 RANKCLIP_PROCESS_COUNT=2 RANKCLIP_PROCESS_ID"
    assert code == 0 and [f"would start: env {variables}={i} python a\\ b" for i in range(2)] == out.splitlines()


@pytest.mark.parametrize("arguments", [(), ("two", "true"), ("0", "true"), ("2",), ("--grace=x", "2", "true")])
def test_mistakes_are_one_line(arguments):
    code, _, err = run("local.sh", *arguments)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
