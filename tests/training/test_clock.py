"""Rates, waiting and ETA, with a fake clock."""

import io

import jax.numpy as jnp
import pytest

from rankclip_jax.training import clock as clock_module
from rankclip_jax.training.clock import Clock


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock_module, "time", fake)
    return fake


def train(clock, time, steps, wait=0.0, compute=1.0, batch=32):
    for step in steps:
        with clock.waiting_for_data():
            time.now += wait
        time.now += compute
        clock.tick(step, batch)


def test_rates_exclude_compilation(time):
    clock = Clock(100, stream=io.StringIO())
    train(clock, time, [1], compute=60.0)
    train(clock, time, range(2, 12), wait=0.5, compute=1.5)
    report = clock.report()
    assert report["samples_per_second"] == pytest.approx(16.0)
    assert report["seconds_per_step"] == pytest.approx(2.0)
    assert report["data_wait_share"] == pytest.approx(0.25)
    assert report["eta_seconds"] == pytest.approx(89 * 2.0)
    assert report["elapsed_seconds"] == pytest.approx(80.0)


def test_each_report_covers_its_own_interval(time):
    clock = Clock(100, stream=io.StringIO())
    train(clock, time, range(1, 12))
    clock.report()
    train(clock, time, range(12, 22), compute=4.0)
    assert clock.report()["samples_per_second"] == pytest.approx(8.0)
    assert clock.report()["samples_per_second"] == pytest.approx(8.0)  # no new steps: the last value stays


def test_rates_are_0_before_the_first_measurement(time):
    clock = Clock(100, stream=io.StringIO())
    assert clock.report()["samples_per_second"] == 0.0
    clock.tick(1, 32)
    assert clock.report()["eta_seconds"] == 0.0


def test_a_pause_counts_for_the_eta_but_not_for_rates(time):
    clock = Clock(31, stream=io.StringIO())
    train(clock, time, range(1, 22))
    with clock.paused():
        time.now += 10.0
    report = clock.report()
    assert report["seconds_per_step"] == pytest.approx(1.0)
    assert report["eta_seconds"] == pytest.approx(10 * (1.0 + 10.0 / 20))


def test_a_restart_continues_the_elapsed_time(time):
    clock = Clock(100, stream=io.StringIO())
    train(clock, time, range(1, 11))
    state = clock.state_dict()
    later = Clock(100, start_step=10, state=state, stream=io.StringIO())
    time.now += 5.0
    train(later, time, range(11, 21))
    report = later.report()
    assert report["elapsed_seconds"] == pytest.approx(25.0)
    assert report["eta_seconds"] == pytest.approx(80.0)


class Running:
    """Stands for an array that is still being computed."""

    def __init__(self):
        self.ready = False


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr(clock_module, "_is_running", lambda step: any(not x.ready for x in step))
    waited_for = []
    monkeypatch.setattr(clock_module.jax, "block_until_ready", waited_for.append)
    return waited_for


def test_waiting_counts_only_while_the_device_is_idle(time, running):
    clock = Clock(100, stream=io.StringIO())
    clock.tick(1, 32)
    step = Running()
    clock.tick(2, 32, [step])
    with clock.waiting_for_data():
        time.now += 3.0  # hidden behind step 2
    step.ready = True
    with clock.waiting_for_data():
        time.now += 1.0
    clock.tick(3, 32)
    assert clock.report()["data_wait_share"] == pytest.approx(0.25)


def test_the_host_is_at_most_two_steps_ahead(time, running):
    clock = Clock(100, stream=io.StringIO())
    results = [Running() for _ in range(5)]
    for step, result in enumerate(results):
        clock.tick(step + 1, 32, [result])
    assert running == [[result] for result in results[:3]]


def test_with_real_arrays():
    clock = Clock(10, stream=io.StringIO())
    for step in range(1, 6):
        with clock.waiting_for_data():
            batch = jnp.ones((64, 64))
        clock.tick(step, 64, {"loss": (batch @ batch).sum()})
    assert clock.report()["samples_per_second"] > 0


def test_the_warning_about_data_appears_once_and_says_what_to_do(time):
    out = io.StringIO()
    clock = Clock(100, stream=out, wait_hint="raise config.data.threads")
    for first in (1, 11, 21):
        train(clock, time, range(first, first + 10), wait=0.5)
        clock.report()
    assert out.getvalue().count("warning") == 1
    assert "33% of the time is spent waiting for data; raise config.data.threads" in out.getvalue()


def test_no_warning_for_a_little_waiting(time):
    out = io.StringIO()
    clock = Clock(100, stream=out)
    train(clock, time, range(1, 50), wait=0.05)
    clock.report()
    assert out.getvalue() == ""


def test_plain_lines_where_there_is_no_terminal(time):
    out = io.StringIO()
    clock = Clock(20, stream=out)
    for step in range(1, 21):
        train(clock, time, [step], compute=4.0)
        clock.report()
        clock.show({"loss": 3.14159, "rank": 2})
    lines = out.getvalue().splitlines()
    assert len(lines) == 8  # at steps 1, 4, 7, ... 19 and the last: one in ten seconds
    assert lines[1] == "step 4/20, loss 3.142, rank 2, 8 samples/s, data wait 0%, ETA 01:04"
    assert lines[-1].startswith("step 20/20, ")
    clock.show({"loss": 1.0}, 19)  # late values are shown with their own step
    assert len(out.getvalue().splitlines()) == 8


def test_use_of_the_devices_in_a_line(time):
    out = io.StringIO()
    clock = Clock(20, stream=out)
    clock.show({"loss": 1.0}, 1, {"peak_device_bytes": 3 * 2**29, "mfu": 0.4567})
    assert out.getvalue() == "step 1/20, loss 1, 0 samples/s, data wait 0%, MFU 45.7%, device memory 1.5 GiB\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal():
    out = Terminal()
    clock = Clock(4, stream=out, start_step=1)
    for step in (2, 3, 4):
        clock.tick(step, 8)
        clock.report()
        clock.show({"loss": 1.5})
    clock.message("a line of its own")
    clock.close()
    assert "4/4" in out.getvalue() and "loss 1.5" in out.getvalue() and "100%" in out.getvalue()
    assert "a line of its own\n" in out.getvalue()


def test_all_processes_but_one_are_silent(time):
    out = Terminal()
    clock = Clock(4, stream=out, show=False)
    train(clock, time, [1, 2], wait=9.0)
    clock.report()
    clock.show({"loss": 1.0})
    clock.message("hello")
    assert out.getvalue() == ""
