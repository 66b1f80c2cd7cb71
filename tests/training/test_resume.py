"""`--resume_from`: a run is changed on purpose, nothing of it is lost, and the same command may be repeated."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

import rankclip_jax
from rankclip_jax import train as training
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.report.run_folder import read_run
from rankclip_jax.report.summary import facts
from rankclip_jax.run_folder import read_metrics
from rankclip_jax.training import resume, setup
from rankclip_jax.training.step import abstract_state, make_init
from tests.checkpoints.test_manager import biggest_file, flip
from tests.support import runs
from tests.train.test_damaged_folders import make_config
from tests.train.test_trouble import contents

pytestmark = pytest.mark.xdist_group("trouble")  # shares the fixture `short_run`
FLAGS = ("--config.duration=20", "--config.checkpoint.every=5", "--config.checkpoint.keep=2")
SLOWER = "--config.optimizer.learning_rate=1e-3"


@pytest.fixture
def run(short_run, tmp_path):
    return shutil.copytree(short_run, tmp_path / "run")


@pytest.fixture
def untrained(monkeypatch):
    """Everything that reads and writes the folder is real. Nothing is computed."""
    monkeypatch.setattr(training.Loop, "run", lambda self, state: state)
    monkeypatch.setattr(training, "evaluate_run", lambda *args: {})
    monkeypatch.setattr(training, "write_report", lambda *args: "")


def changed_config(**changes):
    config = make_config()
    config.update_from_flattened_dict({"optimizer.learning_rate": 1e-3} | changes)
    return config


def history(folder):
    return json.loads((folder / "config.json").read_text()).get("changes", [])


def train_by_hand(run, step, config):
    """The state after the last step of `config`, from the checkpoint of `step`; without the training loop."""
    parts = setup.build(config, str(run))
    init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
    abstract = abstract_state(init, jax.random.key(0), parts.mesh)
    state = Checkpoints(str(run / "checkpoints")).restore(abstract, step).state
    update = setup.train_step(parts, state)
    with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options, step) as loader:
        for _ in range(step, parts.config.duration):
            state, _ = update(state, put_batch(next(loader), parts.mesh))
    return {"step": int(state["step"])} | jax.tree.map(np.asarray, state["params"])


def test_back_to_an_earlier_step_with_another_learning_rate_and_then_longer(run, short_run, capsys):
    before, lines = contents(short_run), read_metrics(short_run)
    code, out, err = runs.train(run, *FLAGS, SLOWER, "--resume_from=15")
    assert code == 0, err
    assert "changed at step 15: config.optimizer.learning_rate 0.003 -> 0.001\n" in out
    assert f"what is later than step 15 is kept in {run}/abandoned/1\n" in out and "resumed from step 15" in out
    (change,) = history(run)
    assert change["changed"] == {"config.optimizer.learning_rate": {"old": 0.003, "new": 0.001}}
    kept = contents(run / "abandoned" / "1")
    for name in ("metrics.jsonl", "config.json", "eval.json", "report.html", "embeddings.npz"):
        assert kept[name] == before[name]
    newest = {name: content for name, content in before.items() if name.startswith("checkpoints/20/")}
    assert newest and newest.items() <= kept.items()
    found = read_metrics(run)
    assert [line for line in found if line["step"] <= 15] == [line for line in lines if line["step"] <= 15]
    assert [line["step"] for line in found if "train/loss" in line] == list(range(1, 21))
    expected, state = train_by_hand(run, 15, changed_config()), runs.arrays(run, 20)
    assert all(any(np.array_equal(leaf, other) for other in state.values()) for leaf in jax.tree.leaves(expected))

    assert rankclip_jax.load(run, 15).step == 15 and "warning" not in capsys.readouterr().err  # of another config
    assert rankclip_jax.load(run / "abandoned" / "1").step == 20
    assert ("Changed", "at step 15", "config.optimizer.learning_rate 0.003 -> 0.001") in facts(read_run(run))

    log = (run / "metrics.jsonl").read_bytes()
    code, out, err = runs.train(run, *FLAGS, SLOWER, "--resume_from=15")  # as a launcher does
    assert code == 0 and "finished: nothing to train" in out and len(history(run)) == 1, err
    assert (run / "metrics.jsonl").read_bytes() == log

    code, out, err = runs.train(run, *FLAGS, SLOWER, "--config.duration=24", "--resume_from=latest")
    assert code == 0 and "resumed from step 20" in out, err
    assert "changed at step 20: config.duration 20 -> 24" in out and "kept in" not in out and "warning" not in err
    assert [change["step"] for change in history(run)] == [15, 20]
    assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == list(range(1, 25))


def test_without_the_flag_it_is_refused_and_named(run, untrained):
    before = contents(run)
    with pytest.raises(UserError, match=r"another config: optimizer.learning_rate .*to change it on purpose, add --"):
        training.train(changed_config(), str(run))
    assert contents(run) == before


REFUSED = {
    "a step without a checkpoint": ("7", {}, "--resume_from=7: there is no such checkpoint in .*; there are: 20, 15"),
    "no step": ("best", {}, "--resume_from=best is neither the number of a step nor 'latest'"),
    "an end before the step": ("latest", {"duration": "12"}, "config.duration is 12 steps, and checkpoint 20 is later"),
    "another model": ("latest", {"model.embed_dim": 32}, "config.model.embed_dim 16 -> 32: this key cannot change"),
    "another state": ("15", {"optimizer.ema_decay": 0.9}, "of another model or optimizer .* ema/.* absent -> float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(run, untrained, case):
    step, changes, message = REFUSED[case]
    before = contents(run)
    with pytest.raises(UserError, match=message):
        training.train(changed_config(**changes), str(run), step)
    assert contents(run) == before


def test_a_damaged_checkpoint_is_refused_by_its_step(run, untrained):
    flip(biggest_file(run / "checkpoints" / "15" / "state"))
    with pytest.raises(UserError, match=r"checkpoint 15 in .* is damaged .*: use another one"):
        training.train(changed_config(), str(run), "15")
    assert history(run) == [] and not (run / "abandoned").exists()


def test_a_new_folder(tmp_path, untrained):
    with pytest.raises(UserError, match=r"--resume_from=15: .* holds no checkpoint; leave the flag out for a new run"):
        training.train(changed_config(), str(tmp_path / "run"), "15")
    training.train(changed_config(), str(tmp_path / "run"), "latest")  # of a launcher that always passes it
    assert history(tmp_path / "run") == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_of_the_change(run, untrained, monkeypatch, moment):
    """Wherever it is killed: with the flag again the run is changed, and without it the old run is whole."""
    before, calls = contents(run), iter(range(100))

    def killed_at(function):
        def call(*args):
            if next(calls) == moment:
                raise Killed
            return function(*args)

        return call

    for name in ("_keep", "write_record", "_move", "show"):
        monkeypatch.setattr(resume, name, killed_at(getattr(resume, name)))
    monkeypatch.setattr(resume.Path, "rename", killed_at(resume.Path.rename))
    with contextlib.suppress(Killed):
        training.train(changed_config(), str(run), "15")
    monkeypatch.undo()
    monkeypatch.setattr(training.Loop, "run", lambda self, state: state)
    monkeypatch.setattr(training, "evaluate_run", lambda *args: {})
    monkeypatch.setattr(training, "write_report", lambda *args: "")
    if not history(run):
        training.train(make_config(), str(run))  # the old run
    training.train(changed_config(), str(run), "15")
    assert [change["step"] for change in history(run)] == [15]
    kept = {path.name: path for path in (run / "abandoned").rglob("*")}
    assert (run / "checkpoints" / "15").exists() and not (run / "checkpoints" / "20").exists()
    assert contents(kept["20"]) == {
        name.removeprefix("checkpoints/20/"): content for name, content in before.items() if "checkpoints/20/" in name
    }
    assert kept["metrics.jsonl"].read_bytes() == before["metrics.jsonl"]
    assert kept["eval.json"].read_bytes() == before["eval.json"]
