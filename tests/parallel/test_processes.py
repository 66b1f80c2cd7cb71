"""Several processes: described by three environment variables; when one fails, all end soon."""

import time

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes as distributed
from tests.support import processes

VALID = {
    "RANKCLIP_COORDINATOR": "localhost:1234",
    "RANKCLIP_PROCESS_COUNT": "4",
    "RANKCLIP_PROCESS_ID": "3",
}


def test_without_variables_there_is_one_process():
    distributed.initialize(env={})
    assert distributed.is_main() and not distributed.is_multi_process()
    assert distributed.process_label() == ""
    assert distributed.all_agree(True) and not distributed.all_agree(False)
    assert distributed.union([3, 1, 3]) == {1, 3}
    distributed.barrier("alone")


def test_environment_variables_are_read():
    assert distributed.read_environment({}) is None
    assert distributed.read_environment(VALID) == ("localhost:1234", 4, 3, 300)
    assert distributed.read_environment(VALID | {"RANKCLIP_INIT_TIMEOUT": "20"}).init_timeout == 20


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"RANKCLIP_PROCESS_ID": ""}, "set but RANKCLIP_PROCESS_ID is not; set all three or none"),
        ({"RANKCLIP_PROCESS_ID": "4"}, r"RANKCLIP_PROCESS_ID=4 is outside 0\.\.3"),
        ({"RANKCLIP_PROCESS_ID": "one"}, "RANKCLIP_PROCESS_ID='one' is not a whole number"),
        ({"RANKCLIP_COORDINATOR": "localhost"}, "is not HOST:PORT"),
        ({"RANKCLIP_INIT_TIMEOUT": "long"}, "RANKCLIP_INIT_TIMEOUT='long' is not a whole number"),
    ],
)
def test_an_invalid_environment_is_an_error_of_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(env=VALID | changes)


TOGETHER = """
import sys, time
from rankclip_jax import cli
from rankclip_jax.parallel import peers, processes as distributed
from rankclip_jax.errors import UserError
def main(argv):
    distributed.initialize()
    peers.watch(lambda: "testing")
    main_one = distributed.is_main()
    print(distributed.process_label(), main_one, distributed.all_agree(True), distributed.all_agree(main_one))
    print("together", sorted(distributed.union([1, 4, 5_000_000_000] if main_one else [2, 4])), distributed.union(()))
    for _ in range(2):
        distributed.barrier("again", timeout=20)
    if argv[1] == "fail" and main_one:
        raise UserError("process 0 stops")
    if argv[1] == "crash" and not main_one:
        raise ValueError("a bug")
    distributed.barrier("end", timeout=20)
    print("done")
cli.run(main, positional=True)
"""


def test_two_processes_connect_agree_and_end():
    results = processes.run_together(TOGETHER, "go", count=2)
    for index, (code, out, err) in enumerate(results):
        assert code == 0, err
        assert f"[process {index} of 2]  {index == 0} True False\n" in out and "done" in out
        assert "together [1, 2, 4, 5000000000] set()\n" in out
        assert f"process {index} of 2, coordinator localhost:" in err and "waiting up to 300 s" in err


@pytest.mark.parametrize("how, who, code, line", [("fail", 0, 2, "process 0 stops"), ("crash", 1, 1, "a bug")])
def test_when_one_fails_all_end_soon(how, who, code, line):
    began = time.monotonic()
    results = processes.run_together(TOGETHER, how, count=2)
    assert time.monotonic() - began < 45  # JAX alone takes five minutes
    assert results[who][0] == code and line in results[who][2]
    assert results[1 - who][0] != 0
    if how == "fail":
        assert "error: [process 0 of 2] process 0 stops" in results[0][2]


SAME = """
import sys
from rankclip_jax import cli
from rankclip_jax.parallel import agreement, peers, processes as distributed
from rankclip_jax.errors import UserError
def main(argv):
    distributed.initialize()
    peers.watch(lambda: "testing")
    agreement.check_same("data", "aa01")
    if argv[1] == "stop" and distributed.is_main():
        raise UserError("no tar there")
    agreement.check_same("data", "aa02" if distributed.is_main() or argv[1] == "same" else "aa03")
    print("done")
cli.run(main, positional=True)
"""


def test_the_same_data_in_every_process():
    for code, out, err in processes.run_together(SAME, "same", count=2):
        assert code == 0 and out.endswith("done\n"), err


def test_different_data_in_one_process_ends_all():
    for code, out, err in processes.run_together(SAME, "other", count=2):
        assert code == 2 and "done" not in out
        assert "process 1 has other data than process 0: use the same data" in err


def test_a_process_that_cannot_read_its_data_ends_all_soon():
    """The others wait up to a day, in case it makes an index, but they notice its end."""
    began = time.monotonic()
    (code, _, err), (other, _, _) = processes.run_together(SAME, "stop", count=2)
    assert code == 2 and "no tar there" in err and other != 0
    assert time.monotonic() - began < 45


def test_a_missing_process_is_an_error_of_one_line():
    env = VALID | {
        "RANKCLIP_COORDINATOR": "localhost:29871",
        "RANKCLIP_PROCESS_ID": "0",
        "RANKCLIP_INIT_TIMEOUT": "3",
    }
    code, _, err = processes.finish(processes.start(TOGETHER, "go", env=env), seconds=30)
    assert code == 2
    assert "error: process 0 of 4 waited 3 s at localhost:29871, but some processes did not connect" in err
