"""Training on one's own files by the command line: splits, white images, bad records, moved data, mistakes."""

import json

import pytest

from configs import emoji
from rankclip_jax.config import base
from rankclip_jax.errors import UserError
from rankclip_jax.evaluate import describe, evaluate, probe
from rankclip_jax.train import train
from rankclip_jax.training import setup
from tests.support import runs
from tests.support.pair_files import COUNT, caption, jpeg, write_csv, write_images, write_jsonl
from tests.support.paths import GOLDEN

pytestmark = pytest.mark.xdist_group("own data")
WEIGHTS = GOLDEN / "weights" / "clip"
FLAGS = (
    "--config.batch_size=8",
    "--config.duration=4 steps",
    "--config.checkpoint.every=2",
    "--config.data.name=csv",
    "--config.data.train_limit=0",
    "--config.tokenizer.vocab_size=300",
    "--config.eval.report_split=",
    "--config.log.diagnostics=False",
    "--config.eval.metrics=('retrieval','zero_shot')",
    "--config.model.image.layers=1",
    "--config.model.text.layers=1",
)


def write_data(folder):
    """A table with two missing images of 24, a test set with one broken of 5, and three images of two classes."""
    names = write_images(folder)
    rows = [(name, caption(number)) for number, name in enumerate(names)]
    write_csv(folder, rows)
    (folder / names[3]).unlink()
    (folder / "broken.jpg").write_bytes(jpeg(0)[:99])
    items = [{"image": name, "caption": [text, f"{text}, again"]} for name, text in rows[5:9]]
    write_jsonl(folder, [*items, {"image": "broken.jpg", "caption": "broken"}], "test.jsonl")
    for number, name in enumerate(("cat/0.jpg", "cat/1.jpg", "dog/2.jpg")):
        (folder / "classes" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "classes" / name).write_bytes(jpeg(number))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    flags = (
        f"--config.data.root={data}",
        "--config.data.train=pairs.csv",
        "--config.data.val_pairs=6",
        "--config.data.test=jsonl:test.jsonl | image_folder:classes",
        "--config.data.max_bad_fraction=0.1",
    )
    code, out, err = runs.train(workdir, *FLAGS, *flags)
    assert code == 0, err
    return workdir, flags, out, err


def test_every_split_is_evaluated(run):
    workdir, _, out, err = run
    results = json.loads((workdir / "eval.json").read_text())
    assert {key.split("/")[0] for key in results["metrics"]} == {"val", "test_1", "test_2"}
    assert results["metrics"]["test_1/unreadable_images"] == 1
    assert "image test.jsonl:broken.jpg is evaluated as white: ImageError" in err
    assert results["chance"]["test_2/zero_shot_class_top1"] == 0.5
    assert "test_2/zero_shot_class_top1" in results["metrics"]
    assert "report: " in out and (workdir / "report.html").stat().st_size > 10_000
    assert any("val/image_to_text_R@1" in line for line in runs.history(workdir))
    counts = json.loads((workdir / "config.json").read_text())["data"]["counts"]
    assert counts == {"train": COUNT - 6, "val": 6, "test_1": 5, "test_2": 3}


def test_a_missing_image_is_a_bad_record(run):
    """One of 18, below the ceiling of a tenth; or of the 6, and white."""
    _, _, _, err = run
    key = "pairs.csv:pics/003.jpg"
    assert (f"bad record {key} replaced: FileNotFoundError" in err) != (f"image {key} is evaluated" in err)


def test_the_run_is_evaluated_again(run):
    workdir = run[0]
    before = json.loads((workdir / "eval.json").read_text())["metrics"]
    results = evaluate(workdir)
    assert results["metrics"] == pytest.approx(before, abs=1e-6)
    assert "unreadable images" in describe(results)


def test_data_may_move_but_not_change(run, tmp_path):
    workdir, flags, _, _ = run
    folder = write_data(tmp_path / "moved")
    table = (folder / "pairs.csv").rename(folder / "renamed.csv")
    moved = (f"--config.data.root={folder}", "--config.data.train=renamed.csv", *flags[2:])
    code, _, err = runs.train(workdir, *FLAGS, *moved)
    assert code == 0, err
    table.write_text(table.read_text().replace("é", "e"))
    code, _, err = runs.train(workdir, *FLAGS, *moved)
    assert code == 2 and "holds a run of another config: data: digest" in err and len(err.splitlines()) == 1


def test_given_weights_need_nothing_to_train_on(data):
    """A model of elsewhere is evaluated on test sets alone."""
    config = base.get_config("mu", "clip")
    config.data.update({"name": "image_folder", "root": str(data), "test": "classes"})
    metrics = evaluate(WEIGHTS, config=config)["metrics"]
    assert {"test/zero_shot_class_top1", "test/image_to_text_R@1"} <= metrics.keys()


def test_a_linear_probe_of_ones_own_classes(data):
    config = base.get_config("mu", "clip")
    config.data.update({"name": "image_folder", "root": str(data), "train": "classes", "test": "classes"})
    found, key = probe(WEIGHTS, config=config), f"{data.name}/test/linear_probe_class_top1"
    assert found["chance"][key] == pytest.approx(2 / 3)  # the commoner of two classes, of which it has two of three
    assert key in found["metrics"]


def test_without_any_split(data, tmp_path):
    """Nothing is evaluated, nothing is best, and the report is of the losses."""
    flags = (
        f"--config.data.train={data}/pairs.csv",
        "--config.eval.train_splits=()",
        "--config.checkpoint.best_metric=",
    )
    code, _, err = runs.train(tmp_path / "run", *FLAGS, *flags, "--config.data.max_bad_fraction=0.1")
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").exists() and not (tmp_path / "run" / "embeddings.npz").exists()


MISTAKES = [
    ({"train": ""}, "config.data.name='csv' needs config.data.train: give the location of your pairs."),
    ({"train": "", "val": "pairs.csv"}, "there are no training pairs: set config.data.train to their location."),
    ({}, "there is nothing to evaluate: name pairs in config.data.val, hold some out by config.data.val_pairs=1000"),
    ({"test": "pairs.csv"}, "unknown config.eval.train_splits split 'val'. Known: test."),
    ({"train": "none.csv"}, "none.csv: check the path."),
    ({"train": "test.jsonl"}, "test.jsonl: no column has a usual name for images"),
    ({"val_pairs": 20}, "batch_size=8 is more than the 4 training examples"),
    ({"name": "emoji"}, "config.data.train is 'pairs.csv', which config.data.name='emoji' does not read"),
]


@pytest.mark.parametrize("changes, message", MISTAKES, ids=[",".join(changes) or "none" for changes, _ in MISTAKES])
def test_mistakes(data, tmp_path, changes, message):
    config = emoji.get_config("mu,clip")
    config.batch_size, config.eval.report_split = 8, ""
    config.data.update({"name": "csv", "root": str(data), "train": "pairs.csv", "train_limit": 0} | changes)
    with pytest.raises(UserError) as caught:
        train(config, str(tmp_path / "run"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_base_config_suits_any_data(data):
    """Its defaults name no split that only some data have."""
    config = base.get_config("mu", "clip")
    config.data.update({"name": "csv", "root": str(data), "train": "pairs.csv", "val_pairs": 4})
    config.batch_size = 8
    assert list(setup.build(config).dataset.evals) == ["val"]
