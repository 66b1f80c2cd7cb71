"""python -m rankclip_jax.doctor: what it prints, its exit code, and that broken checks are results."""

import json
import time

import pytest

from rankclip_jax.doctor import checks, devices, machine, storage
from rankclip_jax.doctor.checks import FAILED, NOTE, OK, Finding
from rankclip_jax.parallel import accelerators
from tests.support import commands, processes
from tests.support.paths import ROOT

NAMES = (
    "hardware",
    "versions",
    "driver",
    "processes",
    "devices",
    "matmul",
    "all-reduce",
    "compiled programs",
    "extras",
)


def doctor(capsys, *flags: str) -> tuple[int, str, str]:
    return commands.run_module(capsys, "rankclip_jax.doctor", *flags)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(devices, "SECONDS", 0.02)
    monkeypatch.setattr(storage, "LOCAL_BYTES", 2 * storage.CHUNK)


def test_a_healthy_machine(capsys, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.bin").write_bytes(b"x" * 1000)
    code, out, err = doctor(capsys, f"--workdir={tmp_path}/new/run", f"--data={data}", "--json", "--expect=cpu")
    found = json.loads(out)
    assert code == 0 and tuple(found) == (*NAMES, "run folder", "data"), err
    assert found["devices"]["platform"] == "cpu" and found["matmul"]["tflops"] > 0
    assert found["data"]["bytes"] == 1000 and found["run folder"]["write_mb_per_second"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # nothing is left, no folder is made


def test_the_table_has_one_line_for_each_check(capsys):
    code, out, _ = doctor(capsys)
    assert code == 0 and [line[8:].split("  ")[0] for line in out.splitlines()] == list(NAMES)


def test_another_platform_than_expected(capsys):
    code, out, err = doctor(capsys, "--expect=tpu")
    assert code == 1 and len(err.splitlines()) == 1
    assert "error: devices: --expect=tpu, but JAX runs on cpu" in err and f"{FAILED}  devices" in out


def test_the_cpu_of_a_machine_with_gpus_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr(accelerators, "signs", lambda: {"gpu": "/dev/nvidia0 exists"})
    code, _, err = doctor(capsys)
    assert code == 1 and "JAX found no GPU, only the CPU, although /dev/nvidia0 exists" in err


def test_failures_of_a_check_are_findings():
    def broken():
        raise RuntimeError("driver\nof another version")

    result = checks.run("x", broken, 5)
    assert result.finding == Finding(FAILED, "RuntimeError: driver")
    assert checks.run("x", lambda: exit(3), 5).finding.status == FAILED


def test_a_check_has_a_time_limit():
    begin = time.monotonic()
    result = checks.run("x", lambda: time.sleep(5), 0.1)
    assert time.monotonic() - begin < 2 and "no answer after 0.1 s" in result.finding.text


def test_storage_that_cannot_be_used(capsys, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = doctor(capsys, "--workdir=nowhere://bucket/run", f"--data={tmp_path}/missing")
    assert code == 1 and "error: run folder: " in err and "error: data: " in err


def test_buckets(capsys):
    location = "memory://bucket/runs"
    finding = storage.run_folder(location)
    assert finding.status == OK and finding.values["read_mb_per_second"] > 0
    import fsspec

    assert fsspec.filesystem("memory").find("/bucket") == []


def test_a_file_that_changes_on_its_way_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "_read_rate", lambda system, name, data: (1.0, False))
    assert storage.run_folder(str(tmp_path)).status == FAILED
    assert list(tmp_path.iterdir()) == []


def test_little_space_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "SCARCE", 2**80)
    assert storage.run_folder(str(tmp_path)).status == NOTE


def test_all_extras_are_known():
    text = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("[tool")[0]
    assert set(machine.EXTRAS) == {line.split(" = ")[0] for line in text.splitlines() if " = [" in line}


def test_the_sum_over_devices():
    code = """
        from rankclip_jax.doctor import devices
        finding = devices.all_reduce()
        print(finding.status, finding.values["devices"], finding.values["gb_per_second"] > 0)
    """
    done, out, err = processes.run(code, devices=4)
    assert (done, out) == (0, "ok 4 True\n"), err


def test_two_processes():
    code = """
        from rankclip_jax.doctor import devices, machine
        print(machine.who_am_i().text)
        print(devices.all_reduce().text.split(" in ")[0])
    """
    for index, (done, out, err) in enumerate(processes.run_together(code, count=2)):
        lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert done == 0 and lines[0] == f"process {index} of 2, found by RANKCLIP_COORDINATOR", err
        assert lines[1] == "4 MiB over 2 devices"
