"""Metrics files: always valid JSON, and one curve over any number of restarts."""

import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.run_folder import read_metrics
from rankclip_jax.training.metrics import MetricsWriter
from tests.support import processes


def lines(workdir) -> list[str]:
    return (workdir / "metrics.jsonl").read_text().splitlines()


def steps(workdir) -> list[int]:
    return [line["step"] for line in read_metrics(workdir)]


def write(workdir, steps, **options) -> MetricsWriter:
    writer = MetricsWriter(workdir, tensorboard=False, **options)
    for step in steps:
        writer.write(step, {"loss": 1 / step})
    return writer


def test_one_flushed_line_per_write(tmp_path):
    writer = write(tmp_path / "run", [1, 2])
    writer.write(3, {"loss": jnp.float32(0.25), "grad": np.float64(2), "seen": 7})
    *_, last = [json.loads(line) for line in lines(tmp_path / "run")]
    assert last == {"step": 3, "time": last["time"], "loss": 0.25, "grad": 2.0, "seen": 7}
    assert list(last)[:2] == ["step", "time"] and last["time"] > 1.7e9


def test_nan_and_infinity_stay_valid_json(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(lines(tmp_path)[0], parse_constant=refuse)
    assert (line["a"], line["b"], line["c"]) == ("NaN", "Infinity", "-Infinity")
    (read,) = read_metrics(tmp_path)
    assert math.isnan(read["a"]) and read["b"] == math.inf and read["c"] == -math.inf


def test_a_resumed_run_has_one_curve(tmp_path):
    write(tmp_path, range(1, 7)).close()
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.restart(3)
    for step in (4, 5):
        writer.write(step, {"loss": 0.0})
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in read_metrics(tmp_path)][:4] == [1.0, 0.5, 1 / 3, 0.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_short_is_dropped(tmp_path):
    write(tmp_path, [1, 2]).close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert steps(tmp_path) == [1, 2]
    MetricsWriter(tmp_path).restart(10)
    assert len(lines(tmp_path)) == 2
    write(tmp_path, [3])
    assert steps(tmp_path) == [1, 2, 3]


def test_truncating_nothing(tmp_path):
    MetricsWriter(tmp_path / "new").restart(3)
    assert read_metrics(tmp_path / "new") == []


def test_writing_continues_after_truncating_an_open_file(tmp_path):
    writer = write(tmp_path, [1, 2, 3])
    writer.restart(1)
    writer.write(2, {"loss": 9})
    assert steps(tmp_path) == [1, 2]


def test_only_process_0_writes(tmp_path):
    writer = write(tmp_path / "run", [1], process_index=1)
    writer.restart(0)
    writer.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_events(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"loss/clip": step / 2, "bad": math.nan})
    writer.close()
    assert read_events(tmp_path) == [(1, "loss/clip", 0.5), (2, "loss/clip", 1.0)]


def read_events(workdir) -> list[tuple[int, str, float]]:
    """Parse TensorBoard's records by hand: length (8 bytes), checksum (4), data, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (workdir / "tensorboard").glob("*tfevents*")
    data, found = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + size :]
    return found


def test_missing_wandb_is_an_error_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[wandb\]'"):
        MetricsWriter(tmp_path, wandb=True)
    MetricsWriter(tmp_path, wandb=True, process_index=1)  # this process does not use it


class FakeWandb:
    def __init__(self):
        self.runs = []

    def init(self, **options):
        self.runs.append(options | {"logged": []})
        return self

    def log(self, values, step):
        self.runs[-1]["logged"].append((step, values))

    def finish(self):
        pass


def test_wandb_continues_the_run_of_the_folder(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):  # two processes, one after the other
        write(tmp_path, [step], wandb="my-project", config={"lr": 1}).close()
    first, second = fake.runs
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert (first["project"], first["config"]) == ("my-project", {"lr": 1})
    assert second["logged"] == [(2, {"loss": 0.5})]


def test_invalid_lines_are_kept_in_a_copy(tmp_path, capsys):
    write(tmp_path, range(1, 4)).close()
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 4, "lo')  # cut short: nothing to keep
    MetricsWriter(tmp_path, tensorboard=False).restart(9)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"] and capsys.readouterr().err == ""
    (tmp_path / "metrics.jsonl").write_text(edited := whole.replace('"step": 2', '"step": two'))
    MetricsWriter(tmp_path, tensorboard=False).restart(9)
    assert steps(tmp_path) == [1, 3] and (tmp_path / "metrics.jsonl.damaged").read_text() == edited
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path}/metrics.jsonl is damaged; the lines up to step 9")


def test_a_file_in_place_of_the_tensorboard_folder(tmp_path):
    (tmp_path / "tensorboard").write_text("x")
    with pytest.raises(UserError, match=r"tensorboard \(File exists\): move it away, or set config.log.tensorboard"):
        MetricsWriter(tmp_path).write(1, {"loss": 1.0})


FULL_DISK = """
import resource, sys
from rankclip_jax import cli
from rankclip_jax.training.metrics import MetricsWriter
def main(argv):
    writer = MetricsWriter(argv[1], tensorboard=argv[2] == "tensorboard")
    writer.restart(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    for step in range(10_000):
        writer.write(step, {f"metric_{i}": 0.5 for i in range(10)})
cli.run(main, positional=True)
"""


@pytest.mark.parametrize("what, file", [("tensorboard", "tensorboard"), ("lines", "metrics.jsonl")])
def test_a_full_disk_is_one_line(tmp_path, what, file):
    """With tensorboardX's own writer, training waits for ever."""
    code, _, err = processes.run(FULL_DISK, tmp_path, what)
    assert code == 2 and err == f"error: no disk space left for {tmp_path}/{file}; free some and run again\n"
