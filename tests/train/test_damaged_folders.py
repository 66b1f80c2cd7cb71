"""Run folders with damaged, edited, lost and stray files: every command works, or ends with one line."""

import functools
import json
import logging
import shutil

import numpy as np
import pytest

import rankclip_jax
from configs import emoji
from rankclip_jax import evaluate as evaluating
from rankclip_jax import train as training
from rankclip_jax.checkpoints import files
from rankclip_jax.data import sources
from rankclip_jax.data.sources.emoji import load as load_emoji
from rankclip_jax.data.sources.options import EmojiOptions
from rankclip_jax.errors import UserError
from rankclip_jax.evals.evaluate_dataset import Evaluated
from rankclip_jax.parallel import processes
from rankclip_jax.report import embedding_map, projection, write_report
from rankclip_jax.run_folder import read_metrics
from rankclip_jax.training import setup
from tests.support import damage
from tests.support.limits import Limits

pytestmark = pytest.mark.xdist_group("trouble")  # shares the fixture `short_run`
NAMES = (
    "config.json",
    "metrics.jsonl",
    "eval.json",
    "linear_probe.json",
    "embeddings.npz",
    "eval_on/other.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "checkpoints/20/_CHECKPOINT_METADATA",
    "checkpoints/20/meta/metadata",
    "checkpoints/20/state/_METADATA",
    "checkpoints/20/state/manifest.ocdbt",
)


@functools.cache
def emoji_data():
    return load_emoji(EmojiOptions(train_limit=256))


def make_config():
    """That of `short_run`."""
    config = emoji.get_config("mu")
    changes = {"batch_size": 32, "data.train_limit": 256, "data.augment": "flip", "log.every": "1", "duration": "20"}
    changes |= {"log.tensorboard": False, "log.diagnostics": False, "eval.report_split": "val"}
    changes |= {"checkpoint.every": "5", "checkpoint.keep": 2, "eval.metrics": ("retrieval",)}
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def config():
    return make_config()


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Everything that reads the folder is real. What computes is not: data, steps, evaluations, the report's map."""
    monkeypatch.setitem(sources.SOURCES, "emoji", lambda data: emoji_data())
    monkeypatch.setattr(evaluating, "evaluate_splits", lambda *args: Evaluated({}, {}))
    monkeypatch.setattr(evaluating, "references", lambda *args: ({}, {}))
    monkeypatch.setattr(training, "evaluate_run", lambda *args: {})
    monkeypatch.setattr(training, "write_report", lambda *args: "")
    monkeypatch.setattr(training.Loop, "run", lambda self, state: state)
    monkeypatch.setattr(embedding_map, "project", lambda points: ("PCA", projection.pca(points)))


def make(short_run, folder):
    """A copy of the run with every kind of file."""
    shutil.copytree(short_run, folder)
    (folder / "eval_on").mkdir()
    (folder / "abandoned" / "1").mkdir(parents=True)
    (folder / "skipped").mkdir()
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1.x").write_bytes(bytes(range(256)))
    (folder / "skipped" / "7.json").write_text("{}")
    for copy in ("linear_probe.json", "eval_on/other.json", "abandoned/1/eval.json"):
        shutil.copy(folder / "eval.json", folder / copy)
    return folder


@pytest.fixture
def run(short_run, tmp_path):
    return make(short_run, tmp_path / "run")


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def outcomes(folder, config):
    """{command: its error of one line, or ""}; anything else than a `UserError` fails."""
    actions = {
        "load": lambda: rankclip_jax.load(folder),
        "evaluate": lambda: evaluating.evaluate(folder, splits=["val"]),
        "report": lambda: write_report(folder),
        "train": lambda: training.train(config.copy_and_resolve_references(), str(folder)),
    }
    found = {}
    for name, action in actions.items():
        try:
            action()
            found[name] = ""
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
            found[name] = str(error)
    return found


def check_log(folder, original):
    """After a start that succeeded, the log has all lines up to the checkpoint that was restored."""
    lines, found = (path.joinpath("metrics.jsonl").read_text().splitlines() for path in (original, folder))
    assert found == lines[: len(found)]
    left = [json.loads(line)["step"] for line in lines[len(found) :]]
    assert not left or min(left) - 1 in (0, 5, 10, 15)


@pytest.mark.parametrize("trials", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_every_damage_is_one_line_or_repaired(short_run, tmp_path, config, trials):
    limits = Limits()
    for trial in range(trials):
        rng = np.random.default_rng([trials, trial])
        folder, done = make(short_run, tmp_path / str(trial)), []
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.2:
                done.append(("stray", damage.stray(folder / "checkpoints", rng)))
                continue
            names = NAMES if rng.random() < 0.5 else files_of(folder)
            name, spoil = names[rng.integers(len(names))], damage.DAMAGES[rng.integers(len(damage.DAMAGES))]
            if (folder / name).is_file():
                spoil(folder / name, rng)
                done.append((name, spoil.__name__))
        try:
            with limits.of((trial, done)):
                found = outcomes(folder, config)
            if not found["train"]:
                check_log(folder, short_run)
        except Exception as error:
            raise AssertionError(f"trial {trial}: {done}") from error
        shutil.rmtree(folder)
    limits.show()


@pytest.mark.parametrize("spoil", ["truncate", "lost", "folder_instead", "other_json", "dangling_link"])
def test_a_damaged_config_is_replaced_by_the_checkpoints_copy(run, config, capsys, spoil):
    whole = (run / "config.json").read_text()
    getattr(damage, spoil)(run / "config.json", np.random.default_rng(5))
    found = outcomes(run, config)
    assert not any(found[name] for name in ("load", "evaluate", "report"))
    said = capsys.readouterr().err
    assert f"warning: {run}/config.json " in said and "; the copy in checkpoint 20 is used" in said
    if spoil == "folder_instead":
        assert "is a folder, and a file is to be written there: move it away" in found["train"]
    else:
        assert found["train"] == "" and (run / "config.json").read_text() == whole


def test_a_damaged_tokenizer_is_written_again(run, config):
    whole = {path.name: path.read_text() for path in (run / "tokenizer").iterdir()}
    (run / "tokenizer" / "tokenizer.json").write_text("{")
    (run / "tokenizer" / "tokenizer_config.json").unlink()
    assert not any(outcomes(run, config).values())
    assert {path.name: path.read_text() for path in (run / "tokenizer").iterdir()} == whole


def test_a_file_named_like_a_step(run, config, capsys):
    (run / "checkpoints" / "30").write_text("a note")
    (run / "checkpoints" / "7").symlink_to("nowhere")
    (run / "checkpoints" / "030").mkdir()
    (run / "checkpoints" / ("9" * 30)).mkdir()
    assert not any(outcomes(run, config).values())
    assert (run / "checkpoints" / "30.damaged").read_text() == "a note"
    said = capsys.readouterr().err
    assert f"warning: {run}/checkpoints/30 is no checkpoint; it is renamed to 30.damaged" in said


def test_a_checkpoint_with_a_file_too_many_or_too_few(run, config, capsys):
    (run / "checkpoints" / "20" / "notes.txt").write_text("mine")
    (run / "checkpoints" / "20" / "state" / "notes.txt").write_text("mine")
    assert not any(outcomes(run, config).values()) and "damaged" not in capsys.readouterr().err
    (run / "checkpoints" / "20" / "state" / "manifest.ocdbt").unlink()
    assert rankclip_jax.load(run).step == 15
    assert "warning: damaged checkpoint skipped: 20: " in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["metrics.jsonl", "checkpoints"])
def test_folders_and_files_in_each_others_place(run, config, damaged):
    path = run / damaged
    path.rename(run / "away")
    path.mkdir() if damaged == "metrics.jsonl" else path.write_text("x")
    found = outcomes(run, config)
    assert damaged in found["train"] and "move it away" in found["train"]


@pytest.mark.parametrize("spoil", damage.DAMAGES, ids=lambda spoil: spoil.__name__)
def test_a_damaged_log_is_written_again(run, config, short_run, spoil, capsys):
    spoil(run / "metrics.jsonl", np.random.default_rng(7))
    if spoil in (damage.folder_instead, damage.link_to_itself):
        with pytest.raises(UserError, match=r"metrics.jsonl cannot be read \(.*\): restore it, or move it away"):
            training.train(config, str(run))
        return
    training.train(config, str(run))
    assert (run / "metrics.jsonl").read_bytes() == (short_run / "metrics.jsonl").read_bytes()
    assert "lines up to step 20 are restored" in capsys.readouterr().err


def test_half_a_line_of_metrics_is_dropped_and_written_again(run, config):
    lines = (run / "metrics.jsonl").read_text()
    odd = '{"step": 20, "train/loss": [1]}\n{"step": true}\n{"step": 21, "x": null}\n"step"\n{"step": 20, "train/l'
    (run / "metrics.jsonl").write_text(lines + odd)
    expected = read_metrics(run)
    assert not any(outcomes(run, config).values())
    assert read_metrics(run) == expected and (run / "metrics.jsonl").read_text() == lines


def test_processes_compare_what_they_must_share_before_they_train(run, config, monkeypatch):
    """In this order, so that no process waits in vain; and all wait for the report of the main process."""
    seen = []
    for module in (training, setup):
        monkeypatch.setattr(module, "check_same", lambda what, values: seen.append((what, bool(values))))
    monkeypatch.setattr(processes, "barrier", lambda name, timeout=0: seen.append((name, timeout > 3600)))
    training.train(config, str(run))
    names = ("version", "config", "data", "tokenizer", "run folder")
    assert [name for name, _ in seen if name in names] == list(names)
    assert seen[-1] == ("report written", True)


def test_a_checkpoint_of_another_run(run, config, capsys):
    """Its arrays have the right shapes: only its copy of the config shows it."""
    path = run / "checkpoints" / "20" / "meta" / "metadata"
    record = json.loads(path.read_text())
    record["meta"]["run"]["record"]["config"]["seed"] = 7
    del record["sha256"]
    path.write_text(json.dumps(files.seal(record)))
    found = outcomes(run, config)
    assert "checkpoints/20 holds a run of another config: seed 7 -> 0" in found.pop("train")
    assert not any(found.values())
    said = capsys.readouterr().err
    assert f"warning: {run}/checkpoints/20 has another config than config.json (seed 0 -> 7)" in said


def test_further_arrays_that_cannot_be_read_leave_no_traceback(caplog):
    """Orbax reports the first one; asyncio logs the others later, when their tasks are collected."""
    for reason in ("NOT_FOUND: ... [tensorstore_spec='{}']", "another library's"):
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=ValueError(reason))
    assert "another library's" in caplog.text and "NOT_FOUND" not in caplog.text
