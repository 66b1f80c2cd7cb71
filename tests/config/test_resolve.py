"""Configs: checked, resolved to steps, frozen, written, and compared with the run in the folder."""

import importlib.metadata
import json
import subprocess

import numpy as np
import pytest
from ml_collections import ConfigDict

import rankclip_jax
from configs import emoji
from rankclip_jax.config import record
from rankclip_jax.config.changes import check_same_run, comparable
from rankclip_jax.config.record import load_run_config, run_record, to_json, versions, write_record
from rankclip_jax.config.resolve import check_batch, resolve, with_value
from rankclip_jax.errors import UserError
from rankclip_jax.run_folder import make_workdir


def make_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            "batch_size": 32,
            "duration": "10 epochs",
            "optimizer": {"lr": 1e-3, "warmup": "5%", "betas": (0.9, 0.98)},
            "eval": {"every": "10%"},
            "checkpoint": {"every": "1 epochs", "keep": 3},
            "log": {"every": "20 steps"},
            "every_caption": True,
            "note": None,
        }
    )
    config.update_from_flattened_dict(changes)
    return config.lock()


def resolved(**changes) -> ConfigDict:
    return resolve(make_config(**changes), examples=1000)


def test_durations_become_steps():
    config = resolved()
    assert config.duration == 310  # 31 whole batches of 32 in 1000
    assert config.optimizer.warmup == 16
    assert config.eval.every == 31 and config.checkpoint.every == 31
    assert config.log.every == 20
    assert config.every_caption is True and config.note is None


def test_the_resolved_config_is_frozen_and_the_written_one_unchanged():
    written = make_config()
    config = resolve(written, examples=1000)
    assert written.duration == "10 epochs"
    for node, key in ((config, "lr"), (config, "batch_size"), (config.optimizer, "lr")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(node, key, 1)
    assert resolve(config, examples=1000).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 1024}, "batch_size=1024 is more than the 1000 training examples"),
        ({"duration": "50%"}, "duration='50%' cannot be given in % here"),
        ({"duration": "0 steps"}, "duration='0 steps' must be at least one step"),
        ({"optimizer.warmup": "310"}, "optimizer.warmup is 310 steps and the whole run 310"),
        ({"eval.every": "often"}, "eval.every='often' is not a duration"),
    ],
)
def test_a_config_that_cannot_run_is_rejected(changes, message):
    with pytest.raises(UserError) as caught:
        resolved(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "batch_size, processes, message",
    [
        (30, 1, "batch_size=30 is not divisible by 8 devices; use 24 or 32"),
        (4, 1, "batch_size=4 is not divisible by 8 devices; use 8"),
        (0, 1, "batch_size=0 must be at least 1"),
        (64, 3, "batch_size=64 is not divisible by 3 processes; use 63 or 66"),
    ],
)
def test_batches_that_do_not_divide_are_rejected(batch_size, processes, message):
    check_batch(64, device_count=8, process_count=4)
    with pytest.raises(UserError) as caught:
        check_batch(batch_size, device_count=8, process_count=processes)
    assert str(caught.value) == message


def test_a_value_is_replaced_in_a_copy():
    config = resolved()
    changed = with_value(config, "optimizer.lr", 0.5)
    assert (config.optimizer.lr, changed.optimizer.lr) == (1e-3, 0.5) and changed.duration == config.duration
    with pytest.raises(AttributeError, match="immutable"):
        changed.optimizer.lr = 1
    with pytest.raises(KeyError):
        with_value(config, "optimizer.none", 1)


def test_json_of_every_type_that_a_config_can_hold():
    config = ConfigDict({"t": (1, 2), "n": np.float32(0.5), "f": np.sin, "d": np.dtype("float32")})
    assert json.loads(to_json(config)) == {"t": [1, 2], "n": 0.5, "f": "sin", "d": "float32"}


def test_config_json_records_how_the_run_came_about(tmp_path):
    record = run_record(resolved(), {"digest": "d"}, {"count": 8}, {"image": 5}, "loss = clip")
    write_record(tmp_path / "run", record)
    found = load_run_config(tmp_path / "run")
    assert found["config"]["duration"] == 310
    assert found["data"] == {"digest": "d"}
    assert found["devices"] == {"count": 8} and found["params"] == {"image": 5}
    assert found["objective_equation"] == "loss = clip"
    assert found["versions"] == versions()
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(versions())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_versions_without_an_installed_package(monkeypatch):
    """As from a checkout that was never installed, with and without git."""

    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(record, "_commit", lambda: "v0.1.0-3-gabc-dirty")
    assert versions().keys() == {"python", "rankclip_jax", "commit"}
    assert versions()["rankclip_jax"] == rankclip_jax.__version__ and versions()["commit"] == "v0.1.0-3-gabc-dirty"


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    assert record._commit() == ""
    (tmp_path / ".git").mkdir()  # not a repository: git fails
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record._commit() == ""
    monkeypatch.setenv("PATH", "")  # no git at all
    assert record._commit() == ""
    monkeypatch.undo()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"], ["tag", "-m", "v1", "v1"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    assert record._commit() == "v1"
    (tmp_path / "file").write_text("x")
    subprocess.run([*git, "add", "file"], check=True)
    assert record._commit() == "v1-dirty"


def record_of(config):
    return json.loads(to_json(run_record(config, {"digest": "d"}, {}, {})))


def check(then, now, data=None, saved=None):
    check_same_run("RUN", saved or record_of(then), now, data)


def test_the_same_run_goes_on():
    changes = {"log.every": "7", "eval.every": "5%", "checkpoint.keep": 9}
    check(resolved(), resolved(**changes), {"digest": "d"})


def test_locations_may_change_but_not_the_number_of_held_out_pairs():
    now = emoji.get_config("mu")
    then = record_of(now)
    now.data.train, now.data.test, now.data.image_root = "a.csv", "b.csv", "c"
    check(None, now, saved=then)
    now.data.val_pairs = 5
    with pytest.raises(UserError, match=r"data.val_pairs 0 -> 5"):
        check(None, now, saved=then)


def test_another_config_is_rejected_by_key():
    with pytest.raises(UserError) as caught:
        check(resolved(), resolved(**{"optimizer.lr": 3e-4, "duration": "11 epochs"}))
    assert "duration 310 -> 341; optimizer.lr 0.001 -> 0.0003; optimizer.warmup 16 -> 17." in str(caught.value)
    assert "RUN holds a run of another config" in str(caught.value) and "Use another --workdir" in str(caught.value)


def test_more_data_changes_the_number_of_steps():
    with pytest.raises(UserError, match="duration 310 -> 620"):
        check(resolved(), resolve(make_config(), examples=2000))


def test_other_data_is_rejected():
    with pytest.raises(UserError, match='data: digest "d" -> "e"'):
        check(resolved(), resolved(), {"digest": "e"})


def test_progress_without_its_config_is_not_started_over():
    with pytest.raises(UserError, match=r"holds a run without its config\.json: restore that file"):
        check_same_run("RUN", None, resolved())


def test_processes_compare_everything_but_locations_of_data():
    config = emoji.get_config("mu")
    digest = comparable(config)
    config.data.root, config.data.num_threads = "/scratch/2", 5
    assert comparable(config) == digest
    config.seed = 1
    assert comparable(config) != digest


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "is damaged"),
        ('{"config": {}}', "it has no 'data'"),
        ('{"config": 3, "data": {}}', "config is a whole number instead of an object"),
        ('{"config": {"batch_size": "many"}, "data": {}}', "config.batch_size is a text instead of a whole number"),
        ("[]", "it is a list instead of an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"config": {"duration": 1e999}, "data": {}}', "config.duration is a number instead of a whole number"),
        ('{"config": {"x": NaN}, "data": {}}', "NaN is no JSON number"),
        (b'{"config": "\xe9"}', "no text"),
    ],
)
def test_a_damaged_config_json(tmp_path, content, said):
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"config\.json is damaged \(.*\): restore it, or use another folder") as caught:
        load_run_config(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_json_that_is_no_file(tmp_path):
    assert load_run_config(tmp_path) is None
    (tmp_path / "config.json").symlink_to("nowhere")
    assert load_run_config(tmp_path) is None
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"config\.json cannot be read \(it is a folder\): restore it"):
        load_run_config(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    make_workdir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"cannot write to --workdir=.*(File exists|Not a directory)"):
            make_workdir(str(path))
