"""Configs: checked, resolved to steps, written, and held against the run that is already there."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import emoji
from rankclip_jax.config.changes import check_same_run
from rankclip_jax.config.record import load_run_config, save_run_config, to_json, versions
from rankclip_jax.config.resolve import check_batch, resolve
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
    return resolve(make_config(**changes), examples=1000, device_count=8, process_count=2)


def test_durations_become_steps():
    config = resolved()
    assert config.duration == 310  # 31 whole batches of 32 in 1000
    assert config.optimizer.warmup == 16
    assert config.eval.every == 31 and config.checkpoint.every == 31
    assert config.log.every == 20
    assert config.every_caption is True and config.note is None


def test_the_resolved_config_is_locked_and_the_written_one_untouched():
    written = make_config()
    config = resolve(written, examples=1000, device_count=1)
    assert written.duration == "10 epochs"
    with pytest.raises(AttributeError):
        config.lr = 1
    assert resolve(config, examples=1000, device_count=1).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 30}, "batch_size=30 is not divisible by 8 devices; use 24 or 32"),
        ({"batch_size": 4}, "batch_size=4 is not divisible by 8 devices; use 8"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1024}, "batch_size=1024 is more than the 1000 training examples"),
        ({"duration": "50%"}, "duration='50%' cannot be given in % here"),
        ({"duration": "0 steps"}, "duration='0 steps' is no training at all"),
        ({"optimizer.warmup": "310"}, "optimizer.warmup is 310 steps and the whole run 310"),
        ({"eval.every": "often"}, "eval.every='often' is not a duration"),
    ],
)
def test_what_cannot_run_is_refused(changes, message):
    with pytest.raises(UserError) as caught:
        resolved(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_batch_and_processes():
    check_batch(64, device_count=8, process_count=4)
    with pytest.raises(UserError, match="not divisible by 3 processes; use 63 or 66"):
        check_batch(64, device_count=8, process_count=3)


def test_json_knows_what_a_config_can_hold():
    config = ConfigDict({"t": (1, 2), "n": np.float32(0.5), "f": np.sin, "d": np.dtype("float32")})
    assert json.loads(to_json(config)) == {"t": [1, 2], "n": 0.5, "f": "sin", "d": "float32"}


def test_config_json_says_how_the_run_came_about(tmp_path):
    save_run_config(tmp_path / "run", resolved(), {"digest": "d"}, {"count": 8}, {"image": 5})
    record = load_run_config(tmp_path / "run")
    assert record["config"]["duration"] == 310
    assert record["data"] == {"digest": "d"}
    assert record["devices"] == {"count": 8} and record["params"] == {"image": 5}
    assert record["versions"] == versions()
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(versions())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def begin_run(workdir, config, progress=True):
    save_run_config(workdir, config, {"digest": "d"}, {}, {})
    if progress:
        (workdir / "metrics.jsonl").write_text('{"step": 1}\n')


def test_a_new_folder_holds_no_run(tmp_path):
    assert check_same_run(tmp_path / "none", resolved()) is False


def test_the_same_run_goes_on(tmp_path):
    begin_run(tmp_path, resolved())
    changes = {"log.every": "7", "eval.every": "5%", "checkpoint.keep": 9}
    assert check_same_run(tmp_path, resolved(**changes), {"digest": "d"}) is True


def test_locations_may_change_but_not_what_is_held_out(tmp_path):
    now = emoji.get_config("mu")
    begin_run(tmp_path, now)
    now.data.train, now.data.test, now.data.image_root = "a.csv", "b.csv", "c"
    assert check_same_run(tmp_path, now) is True
    now.data.val_pairs = 5
    with pytest.raises(UserError, match=r"data.val_pairs 0 -> 5"):
        check_same_run(tmp_path, now)


def test_another_config_is_refused_by_key(tmp_path):
    begin_run(tmp_path, resolved())
    with pytest.raises(UserError) as caught:
        check_same_run(tmp_path, resolved(**{"optimizer.lr": 3e-4, "duration": "11 epochs"}))
    assert "duration 310 -> 341; optimizer.lr 0.001 -> 0.0003; optimizer.warmup 16 -> 17." in str(caught.value)
    assert "Use another --workdir" in str(caught.value)


def test_more_data_changes_the_number_of_steps(tmp_path):
    begin_run(tmp_path, resolved())
    with pytest.raises(UserError, match="duration 310 -> 620"):
        check_same_run(tmp_path, resolve(make_config(), examples=2000, device_count=8))


def test_other_data_is_refused(tmp_path):
    begin_run(tmp_path, resolved())
    with pytest.raises(UserError, match='data: digest "d" -> "e"'):
        check_same_run(tmp_path, resolved(), {"digest": "e"})


def test_a_run_that_has_done_nothing_yet_may_be_replaced(tmp_path):
    begin_run(tmp_path, resolved(), progress=False)
    assert check_same_run(tmp_path, resolved(**{"optimizer.lr": 3e-4})) is False
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(UserError):
        check_same_run(tmp_path, resolved(**{"optimizer.lr": 3e-4}))


def test_a_damaged_config_json(tmp_path):
    begin_run(tmp_path, resolved())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        check_same_run(tmp_path, resolved())
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match=r"config\.json is not what training writes \(it has no 'data'\)"):
        check_same_run(tmp_path, resolved())


def test_progress_without_its_config_is_not_started_over(tmp_path):
    begin_run(tmp_path, resolved())
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds a run without its config\.json: restore that file"):
        check_same_run(tmp_path, resolved())


def test_a_folder_that_cannot_be_written(tmp_path):
    make_workdir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"cannot write to --workdir=.*(File exists|Not a directory)"):
            make_workdir(str(path))
